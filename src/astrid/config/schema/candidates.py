"""`candidates`: how peaks of the score are found, measured, tagged and cut."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from astrid.config.schema._base import Fraction, NonNegative, Positive, PositiveCount, section

Tag = Literal[
    "column",
    "cosmic_ray",
    "crosstalk",
    "diffuse",
    "dipole",
    "edge",
    "extended",
    "fringe",
    "ghost",
    "glint",
    "hot_pixel",
    "offset",
    "persistence",
    "residual",
    "saturated",
    "scale",
    "step",
    "trail",
]


@section
class ExtractConfig:
    """Which pixels of the score become candidates."""

    method: Literal["peaks", "sep", "daofind"]
    threshold: Positive  # sigma
    separation_fwhm: Positive  # science FWHM
    saddle_fwhm: NonNegative  # science FWHM
    saddle_depth: NonNegative  # sigma
    max_candidates: PositiveCount  # a pair


@section
class MeasureConfig:
    """Radii of the core stamp, in FWHM of the science PSF."""

    core_fwhm: Positive
    lobe_fwhm: Positive
    aperture_fwhm: Positive
    annulus_inner_fwhm: Positive
    annulus_outer_fwhm: Positive
    lobe_sigma: NonNegative  # sigma of the score


@section
class HostConfig:
    """Sources of the reference: hosts and bright stars."""

    detection_sigma: Positive  # sigma of the sky a pixel
    min_area: PositiveCount  # pixel
    extended_ratio: Positive  # source size over PSF size
    max_dlr: Positive  # directional light radii
    ambiguous_ratio: Fraction  # light radii of the best over those of the second
    star_snr: Positive  # peak over sky sigma


@section
class TagsConfig:
    """Thresholds of the artefact tags."""

    cosmic_sharpness: Positive  # peak over PSF-predicted peak
    cosmic_sigma: NonNegative  # sigma of the sharpness
    cosmic_misfit: Fraction  # of the strength
    faint_snr: Positive  # S/N
    faint_sharpness: Positive  # peak over PSF-predicted peak
    faint_chi2: Positive  # reduced
    faint_elongation: Positive  # major over minor axis
    faint_narrow: Fraction  # FWHM over the PSF's
    faint_empty: Positive  # S/N in the other epoch
    narrow_share: Fraction  # squared width across over the PSF's
    narrow_error: NonNegative  # of the ratio at one peak of a trail
    track_elongation: Positive  # major over minor axis
    track_empty: Positive  # S/N in the other epoch
    hot_neighbour: Fraction  # of the PSF-predicted neighbour
    dipole_symmetry: Fraction
    residual_fwhm: Positive  # science FWHM
    residual_fraction: Fraction  # of the star's flux
    offset_fwhm: tuple[NonNegative, Positive]  # science FWHM, least and most
    offset_sigma: NonNegative  # of the candidate's place
    offset_size: Positive  # science FWHM, of the star's major axis (RMS)
    offset_snr: Positive  # sigma of the reference's sky
    offset_share: Positive  # of the light at the candidate
    scale_members: PositiveCount  # sources around the candidate
    scale_snr: Positive  # light over the error of the difference's flux
    scale_sigma: Positive  # of their median share
    scale_least: Fraction  # of their light
    scale_factor: Positive  # of two shares
    trail_sigma: Positive  # sigma of the score
    trail_length_fwhm: Positive  # science FWHM
    trail_elongation: Positive  # length over width
    trail_members: Annotated[int, Field(ge=3)]  # candidates on one line
    trail_fill: Fraction  # of the line's length
    edge_distance: NonNegative  # pixel
    extended_ratio: Positive  # FWHM over the PSF's, same measure
    extended_noise: NonNegative  # relative error of the FWHM times S/N
    ghost_sigma: Positive  # sigma of D smoothed over 3 FWHM
    ghost_radius_fwhm: tuple[Positive, Positive]  # science FWHM, least and most
    ghost_elongation: Positive  # major over minor axis
    ghost_raggedness: Positive  # area of the ellipse of its second moments over its own
    ghost_smoothness: Fraction  # median over mean of its brightness
    ghost_axis: tuple[Fraction, Fraction]  # x and y of the optical axis, of the image's width and height
    ghost_scale: tuple[Positive, Positive]  # distance of the ghost from the axis over the star's
    ghost_tolerance: Positive  # ghost's radii
    ghost_near: NonNegative  # ghost's radii
    ghost_filled: Fraction  # of a disc's blocks
    ghost_clear: Fraction  # of the blocks around it
    ghost_share: Fraction  # of the strength
    diffuse_share: Fraction  # of the strength
    fringe_spacing: tuple[Positive, Positive]  # pixel, shortest and longest
    fringe_contrast: Positive  # power of a mode over the mean of the others
    fringe_share: Fraction  # of the strength
    step_sigma: Positive  # sigma of the jumps
    step_width_fwhm: Positive  # science FWHM
    step_fwhm: Positive  # science FWHM
    step_share: Fraction  # of the strength
    column_length_fwhm: Positive  # science FWHM
    column_sigma: Positive  # sigma of D's mean
    flagged_fwhm: Positive  # science FWHM
    glint_empty: Positive  # S/N in the other epoch
    glint_elongation: Positive  # major over minor axis
    glint_snr: Positive  # S/N
    glint_length: Positive  # FWHM over the PSF's
    glint_spacing: tuple[Positive, Positive]  # pixel, least and most
    glint_tolerance_fwhm: Positive  # science FWHM
    glint_ratio: Positive  # of two flashes' strengths
    glint_chance: Positive  # triples by chance


@section
class StampsConfig:
    """What makes a stamp scorable."""

    max_masked: Fraction  # of the stamp's pixels
    shard_rows: PositiveCount  # triplets a shard, for `astrid detect --triplets`


@section
class ForcedConfig:
    """Forced photometry at given positions."""

    sigma: Positive  # of a detection and of an upper limit
    core_fwhm: Positive  # science FWHM
    max_masked: Fraction  # of the core
    edge_distance: NonNegative  # pixel


@section
class MovingConfig:
    """Linking of candidates that move, and matching with known ones."""

    min_rate: Positive  # arcsec / h
    max_rate: Positive  # arcsec / h
    max_gap: Positive  # d, between two detections of a track that stand next to each other
    min_detections: Annotated[int, Field(ge=3)]  # of a track, in as many exposures
    tolerance: Positive  # arcsec
    stationary: NonNegative  # arcsec
    max_chance: Positive  # tracks by chance
    exclude_tags: tuple[Tag, ...]
    asteroids: str  # path; empty = none
    match_radius: Positive  # arcsec
    match_sigma: Positive  # of the prediction's error
    max_extrapolation: NonNegative  # h


@section
class RecurringConfig:
    """Candidates at one pixel of a detector, exposure after exposure."""

    tolerance: Positive  # pixel, between two of them
    apart_fwhm: NonNegative  # science FWHM, between their places on the sky at least
    chance: Fraction  # probability of so many by chance, at most
    chance_sharp: Fraction  # the same, of a sharp candidate
    sharpness: Positive  # of a sharp candidate: peak over PSF-predicted peak


@section
class CandidatesConfig:
    """The whole room."""

    extract: ExtractConfig
    measure: MeasureConfig
    host: HostConfig
    tags: TagsConfig
    stamps: StampsConfig
    forced: ForcedConfig
    moving: MovingConfig
    recurring: RecurringConfig
