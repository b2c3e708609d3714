"""One trained network -> artifacts a target, each behind a gate of agreement, in a model folder that consumers load."""
