"""Where the configuration groups are: beside the project at hand, or in the source tree that AstrID was installed from."""

from __future__ import annotations

from pathlib import Path

from astrid.core.errors import ConfigError


def conf_folder() -> Path:
    """conf/ of the working directory, else of the source tree. Raises `ConfigError` when neither is there."""
    here = Path("conf")
    source = Path(__file__).resolve().parents[3] / "conf"
    for folder in (here, source):
        if (folder / "config.yaml").exists():
            return folder
    raise ConfigError("no conf/ folder here and none beside the installed sources; run from a clone of AstrID.")
