"""One thin entry point per DVC stage: read a subtree of params.yaml, call one room, write the products, report metrics."""

from astrid.core.threads import hold_to_one_thread

hold_to_one_thread()
