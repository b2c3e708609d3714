"""Where exposures come from and how they are paired."""

from __future__ import annotations

from typing import Literal

from astrid.config.schema._base import NonNegative, Positive, section
from astrid.config.schema.archive import AlertsConfig, ArchiveConfig, MissionName

Companion = Literal["noise", "psf", "mask", "bias", "flat", "dark", "variance", "exposure"]
HeaderColumn = Literal[
    "survey", "instrument", "detector", "filter", "field_id", "mjd", "exptime", "unit", "gain", "read_noise", "saturation"
]


@section
class PairRule:
    """Which reference a science exposure is compared with; survey, instrument and filter are always the same for both."""

    same_detector: bool  # refuse a reference of another detector
    same_field: bool  # refuse a reference of another field_id
    max_separation: Positive  # arcsec between the centres of the two exposures
    min_days: NonNegative  # d by which the reference precedes the science exposure
    discovery_margin: NonNegative  # d by which the reference precedes the discovery of an event in the footprint
    event_days: Positive  # d after its discovery during which an event counts for that margin
    event_radius: Positive  # arcsec from the centre of an exposure within which an event counts as in its footprint
    prefer: Literal["deepest", "latest"]  # of several usable references: longest exposure, or nearest in time


@section
class RoleRule:
    """Says from an exposure's header which role it has when no table does."""

    by: Literal["keyword", "date"]
    keyword: str  # header keyword whose value names the role (by: keyword)
    science: tuple[str, ...]  # values of the keyword that mean science
    reference: tuple[str, ...]  # values of the keyword that mean reference
    split_mjd: NonNegative  # d; earlier exposures are references, later ones science (by: date)


@section
class FolderConfig:
    """A user's folder of FITS files."""

    root: str  # the folder
    table: str | None  # table with EXPOSURES columns, relative to root; null = every file that matches `pattern`
    pattern: tuple[str, ...]  # globs under root, used without a table
    exclude: tuple[str, ...]  # globs of files that are no exposures (companions, calibration frames)
    role_rule: RoleRule | None  # needed without a table, or for a table without the column role
    survey: str  # name of the survey where neither table nor header gives one
    calibrated: bool  # the detector's signature is already removed
    unit: str  # unit of calibrated pixels where neither table nor header gives one
    hdu: str  # extension of the image: number or name; empty = first image
    keywords: dict[HeaderColumn, tuple[str, ...]]  # column -> header keywords, the first present wins
    companions: dict[Companion, str]  # companion -> file name with {stem} for the exposure's name without .fits; empty = none
    catalog: str | None  # supernova catalogue, relative to root; null = none


@section
class SurveyConfig:
    """The source of exposures and the rule that pairs them."""

    kind: Literal["simulated", "folder", "archive", "alerts"]
    source: str  # file or folder that DVC watches for this source: the user's own, or the simulator's code
    missions: tuple[MissionName, ...]  # missions to search (kind: archive); empty otherwise
    pair: PairRule
    folder: FolderConfig | None  # how FITS files are read; null for the simulated survey and for alerts
    archive: ArchiveConfig | None  # null unless kind is archive
    alerts: AlertsConfig | None  # null unless kind is alerts
