"""`candidates`: how peaks of the score are found, measured, tagged and cut."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from astrid.config.schema._base import Fraction, NonNegative, Positive, PositiveCount, section


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
    star_snr: Positive  # peak over sky sigma


@section
class TagsConfig:
    """Thresholds of the artefact tags."""

    cosmic_sharpness: Positive  # peak over PSF-predicted peak
    cosmic_sigma: NonNegative  # sigma of the sharpness
    hot_neighbour: Fraction  # of the PSF-predicted neighbour
    dipole_symmetry: Fraction
    residual_fwhm: Positive  # science FWHM
    residual_fraction: Fraction  # of the star's flux
    trail_sigma: Positive  # sigma of the score
    trail_length_fwhm: Positive  # science FWHM
    trail_elongation: Positive  # length over width
    trail_members: Annotated[int, Field(ge=3)]  # candidates on one line
    trail_fill: Fraction  # of the line's length
    edge_distance: NonNegative  # pixel
    extended_ratio: Positive  # FWHM over the PSF's, same measure
    extended_noise: NonNegative  # relative error of the FWHM times S/N


@section
class StampsConfig:
    """What makes a stamp scorable."""

    max_masked: Fraction  # of the stamp's pixels
    shard_rows: PositiveCount  # triplets a shard, for `astrid detect --triplets`


@section
class CandidatesConfig:
    """The whole room."""

    extract: ExtractConfig
    measure: MeasureConfig
    host: HostConfig
    tags: TagsConfig
    stamps: StampsConfig
