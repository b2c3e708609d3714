"""Archives that can be searched: one module and one `Archive` each, and one table of rules for the products of their missions."""

from __future__ import annotations

from astrid.config.schema.archive import SearchConfig
from astrid.sky.archives._base import Archive, ArchiveFile, Event, Observation
from astrid.sky.manners import Manners

__all__ = ["Archive", "ArchiveFile", "Event", "Observation", "open_archive"]


def open_archive(name: str, cfg: SearchConfig, manners: Manners) -> Archive:
    """The archive of this name (`survey.archive.name`); nothing is asked yet."""
    from astrid.sky.archives.mast import Mast

    return {"mast": Mast}[name](cfg, manners)
