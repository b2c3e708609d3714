"""What a verb writes is checked before its work begins, so that a wrong name costs no minute and leaves no half of a result."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from astrid.core.errors import InputError


def check_outputs(inputs: Iterable[Path | None], outputs: Iterable[Path | None]) -> None:
    """Raise `InputError` when an output is an input or another output, is a folder, or lies where nothing can be written."""
    seen = {path.resolve(): "input" for path in inputs if path is not None}
    for output in (path for path in outputs if path is not None):
        clash = seen.get(output.resolve())  # through links as well
        if clash:
            raise InputError(f"the output {output} is the {clash} of that name; choose another.")
        seen[output.resolve()] = "other output"
        if output.is_dir():
            raise InputError(f"the output {output} is a folder; name a file in it.")
        above = next(parent for parent in output.resolve().parents if parent.exists())
        if not above.is_dir() or not os.access(above, os.W_OK):
            what = "nothing can be written there" if above.is_dir() else "that is a file"
            raise InputError(f"the output {output} would lie in {above}, but {what}; choose another place.")
