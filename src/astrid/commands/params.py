"""`astrid params`: conf/ -> params.yaml, or a check that it is current."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from astrid.config.compose import compose, stale_keys, write_params
from astrid.core.errors import ConfigError


def params(conf: Path, path: Path, overrides: Sequence[str], *, check: bool) -> None:
    """Write `path` from `conf`, or with `check` raise `ConfigError` naming the keys in which it is stale."""
    values = compose(conf, overrides)
    if not check:
        write_params(values, path)
        print(f"wrote {path}")
        return
    stale = stale_keys(values, path)
    if stale:
        shown = ", ".join(stale[:5]) + (f" and {len(stale) - 5} more" if len(stale) > 5 else "")
        raise ConfigError(f"{path} is stale in {shown}; run `astrid params` and commit it.")
    print(f"{path} is current")
