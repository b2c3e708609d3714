"""The imaging room: calibration of one exposure, and the proper subtraction of a pair."""

from __future__ import annotations

from typing import Literal

from astrid.config.schema._base import Count, Fraction, NonNegative, Positive, PositiveCount, section
from astrid.config.schema.calibrate import CalibrateConfig
from astrid.config.schema.psf import PsfConfig


@section
class RegistrationConfig:
    """How matched stars refine the science-to-reference mapping."""

    search_px: Positive  # science px, largest shift of the header's WCS that is looked for
    match_px: Positive  # science px, match radius after that shift, in the first round
    clip: Positive  # sigma, matches farther than this from the fit are dropped
    min_affine: PositiveCount  # matches, fewer than this fit a shift only
    min_shift: PositiveCount  # matches, fewer than this keep the header's WCS
    error_floor_px: NonNegative  # science px, least registration scatter that enters the score's variance
    error_header_px: NonNegative  # science px, registration scatter assumed when the header's WCS is kept


@section
class ResampleConfig:
    """How the reference is brought onto the science grid."""

    order: Literal[1, 3, 5]  # degree of the interpolating spline
    mesh_px: PositiveCount  # science px, step of the grid on which the world coordinates are evaluated


@section
class FluxScaleConfig:
    """How the reference is put on the science image's flux scale."""

    min_stars: PositiveCount  # matched stars, fewer than this take the exposure times
    clip: Positive  # sigma, stars farther than this from the ratio are dropped
    max_error: Positive  # relative error of the stars' ratio, beyond which the headers are trusted more


@section
class ScoreConfig:
    """What enters S_corr beside the pixels' own noise, and how masks and scale are handled."""

    astrometric_term: bool  # add the variance of the measured registration scatter
    photometric_term: bool  # add the variance of the measured scatter of the stars' flux ratio
    grow_fwhms: NonNegative  # FWHM, masks of extended defects (saturation, no coverage) are grown by this
    extended_px: PositiveCount  # px, a connected mask of at least this many pixels is an extended defect
    renormalise: Literal["never", "outside_tolerance", "always"]  # divide the score by its blank-sky width
    tolerance: Positive  # |width - 1| that counts as right


@section
class GateConfig:
    """Limits on the quality of a pair; a pair beyond one is marked, and refused when `fatal`."""

    fatal: bool
    max_registration_rms_px: Positive  # science px
    min_matched: Count  # stars
    max_fwhm_ratio: Positive  # broader over narrower PSF
    max_flux_scatter: Positive  # relative scatter of the stars' flux ratio
    min_score_std: NonNegative  # of the blank sky before any renormalisation
    max_score_std: Positive
    max_masked_fraction: Fraction


@section
class DifferenceConfig:
    """The proper subtraction of a pair."""

    allow_cross_mission: bool  # accept a pair of different survey, instrument or filter
    min_overlap: Fraction  # of the science pixels that must have reference data
    reference_psf: Literal["estimated", "mapped"]  # on the science grid: from its stars, or its own stamp through the mapping
    psf: PsfConfig
    registration: RegistrationConfig
    resample: ResampleConfig
    flux_scale: FluxScaleConfig
    score: ScoreConfig
    gate: GateConfig


@section
class ImagingConfig:
    """Calibration and subtraction."""

    calibrate: CalibrateConfig
    difference: DifferenceConfig
