"""`astrid` and `python -m astrid`: the whole command line, or on a device without click the verbs that score there."""

from __future__ import annotations

import importlib.util

from astrid.core.runtime import fail


def main() -> None:
    """Entry point; see `astrid.cli` and `astrid.commands.device`. A verb whose packages are not installed is a sentence and code 2."""
    try:
        if importlib.util.find_spec("click") is None:
            from astrid.commands import device

            device.main()
        else:
            from astrid import cli

            cli.main()
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("astrid"):
            raise
        fail(
            f"this verb needs {error.name}, which is not installed here; run `make setup`, or `pip install astrid` with what it depends on."
        )
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
