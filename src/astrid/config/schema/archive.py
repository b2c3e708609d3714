"""From a catalogue of supernovae through an archive to raw files: what is compiled, asked, chosen and fetched."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from astrid.config.schema._base import Count, Fraction, NonNegative, Positive, PositiveCount, section

MissionName = Literal["swift", "galex", "ps1", "hst", "jwst", "tess"]
CatalogFormat = Literal["sncat", "osc", "tns", "table", "vizier"]
Address = Annotated[str, Field(pattern=r"^(https?://.+)?$")]  # of a server, with its scheme; empty = the usual one


@section
class CatalogSource:
    """One catalogue; where several know an event, the earlier source in the list wins field by field."""

    format: CatalogFormat  # the predecessor's text, Open Supernova Catalog csv, TNS csv, a table of one's own, VizieR
    path: str  # file, or the catalogue's name in VizieR, e.g. B/sn/sncat


@section
class CatalogConfig:
    """Which supernovae are looked for."""

    sources: tuple[CatalogSource, ...]
    server: str  # address of VizieR; empty = its own
    name_radius: Positive  # arcsec within which two rows of one name are one event; beyond, the later one is refused
    match_radius: Positive  # arcsec within which two rows may be one event
    match_days: Positive  # d within which their discoveries must lie; rows without a date match by position and name
    types: tuple[str, ...]  # normal types to keep, a type with its subtypes; empty = all
    discovered: tuple[float, float] | None  # d (MJD), first and last discovery; null = all
    limit: Count  # events to keep, the latest discoveries first; 0 = all

    def __post_init__(self) -> None:
        if self.discovered is not None and self.discovered[0] > self.discovered[1]:
            raise ValueError(f"discovered = [{self.discovered[0]:g}, {self.discovered[1]:g}] ends before it begins; swap them")


@section
class SearchConfig:
    """What the archive is asked, and how politely."""

    server: Address  # of the archive; empty = its own
    radius: Positive  # arcsec around the event within which an observation's footprint must come
    before_days: Positive  # d before the discovery that are searched for references
    after_days: Positive  # d after the discovery that are searched for science images
    chunk: PositiveCount  # events between two checkpoints
    parallel: PositiveCount  # requests at once
    rate: Positive  # requests a second, of all together
    retries: Count  # further attempts at a request that failed, with growing pauses
    timeout: Positive  # s a request may take
    page: PositiveCount  # rows a page of an answer
    accept_failed: Fraction  # share of the questions that may stay without an answer; beyond it the stage ends and is run again


@section
class ChooseConfig:
    """Which observations make pairs; times are in days from the discovery. The margins of the reference are in `survey.pair`."""

    science_from: float  # d, first science image
    science_until: float  # d, last science image
    take: Literal["best", "all"]  # one pair an event, instrument and filter, or every one
    max_science: Count  # science observations an event, instrument and filter with take: all; 0 = no limit
    references: PositiveCount  # reference observations an event, instrument and filter, the deepest first
    min_exptime: NonNegative  # s, of either
    min_overlap: Fraction  # share of the smaller footprint that both cover
    edge: NonNegative  # arcsec by which the event must lie inside both footprints

    def __post_init__(self) -> None:
        if self.science_from >= self.science_until:
            window = f"science_from = {self.science_from:g} and science_until = {self.science_until:g}"
            raise ValueError(f"{window} leave no day between them; give the earlier one first")


@section
class DownloadConfig:
    """How files are fetched and what they may take."""

    server: Address  # of the archive's file service; empty = its own
    cloud: bool  # take a file from the archive's public bucket where it has one; the archive is the way back
    cloud_server: Address  # of the public buckets; empty = Amazon's
    parallel: PositiveCount  # files at once
    rate: Positive  # requests a second, of all together
    megabytes_a_second: NonNegative  # of all together; 0 = no limit
    retries: Count  # further attempts at a file whose transfer failed, with growing pauses
    timeout: Positive  # s without a byte after which a transfer counts as broken
    budget_gb: Positive  # GB that the raw files may take; what would go beyond is reported and not fetched
    max_file_gb: Positive  # GB, a larger file is not fetched
    accept_failed: Fraction  # share of the files that may be missing as their transfers failed; beyond it the stage ends and is run again


@section
class ArchiveConfig:
    """An archive as the source of exposures."""

    name: Literal["mast"]
    catalog: CatalogConfig
    search: SearchConfig
    choose: ChooseConfig
    download: DownloadConfig


@section
class AlertsConfig:
    """Alert packets with stamps as the source of triplets."""

    root: str  # folder of Avro files and tar archives, or one of them
    evidence: str | None  # table (csv, parquet) with one row an alert and columns that speak for or against it; null = the packets alone
    real: tuple[str, ...]  # rules over its columns that make an alert real, see docs/alerts.md
    bogus: tuple[str, ...]  # rules that make one bogus; an alert that both match is a conflict and stays unlabelled
    confidence: Annotated[float, Field(gt=0, le=1)]  # of such a label
    noise_contrast: Positive  # S/N in the difference's middle over that in science and reference from which the stamps are noise
