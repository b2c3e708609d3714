"""What every archive answers: the observations near an event, and the files of observations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """Where and when an archive is searched."""

    object_id: str
    ra: float  # deg, ICRS
    dec: float  # deg, ICRS
    first: float  # d (MJD), begin of the window
    last: float  # d (MJD), end of the window


@dataclass(frozen=True)
class Observation:
    """One observation as the archive lists it; `number` is the archive's own name of it, which its files refer to."""

    number: str
    mission: str  # AstrID's name of it
    instrument: str
    filters: str
    calib_level: int
    t_min: float  # d (MJD)
    t_max: float  # d (MJD)
    exptime: float  # s; NaN where unknown
    ra: float  # deg, ICRS
    dec: float  # deg, ICRS
    region: str  # STC-S; may be empty
    rights: str  # public, or what the archive says instead


@dataclass(frozen=True)
class ArchiveFile:
    """One file of an observation."""

    observation: str  # its observation's number
    filename: str
    uri: str
    size: int  # byte; 0 where the archive says nothing
    calib_level: int
    rights: str  # empty = that of the observation
    checksum: str = ""  # algorithm:hex


class Archive(ABC):
    """One archive. Its methods may be called from several threads at once.

    Each raises `ArchiveError` with half a sentence's reason when the question gets no answer, and `StoppedError` when the
    run is being ended.
    """

    name: str
    missions: tuple[str, ...]

    @property
    @abstractmethod
    def address(self) -> str:
        """Where it is."""

    @abstractmethod
    def connect(self) -> None:
        """Ask what is needed once before all questions; the first sign of life."""

    @abstractmethod
    def observations(self, event: Event, missions: Sequence[str]) -> list[Observation]:
        """What the missions have near the event within its window; sorted, nothing twice."""

    @abstractmethod
    def batch(self, mission: str) -> int:
        """Observations of a mission that one question for files may hold."""

    @abstractmethod
    def files(self, numbers: Sequence[str]) -> list[ArchiveFile]:
        """The files of at most `batch` observations of one mission; sorted, nothing twice."""

    @abstractmethod
    def cloud_uri(self, mission: str, filename: str, uri: str) -> str:
        """Where a file lies in a public bucket (s3://...); empty = not known."""
