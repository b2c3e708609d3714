"""The imaging room: calibration of one exposure, and the proper subtraction of a pair."""

from __future__ import annotations

from typing import Literal

from astrid.config.schema._base import Count, Fraction, NonNegative, Positive, PositiveCount, section
from astrid.config.schema.calibrate import CalibrateConfig
from astrid.config.schema.psf import PsfConfig


@section
class RegistrationConfig:
    """How matched stars refine the science-to-reference mapping."""

    refine: bool  # false keeps the headers' WCS
    search_px: Positive  # science px, largest shift of the header's WCS that is looked for
    scale_tolerance: Fraction  # relative error of the headers' pixel scales that is looked for
    match_px: Positive  # science px, match radius after that shift, in the first round
    clip: Positive  # sigma, matches farther than this from the fit are dropped
    significance: Fraction  # chance of noise, below which a match, a distortion or a varying scatter is believed
    max_degree: Literal[1, 2, 3, 4]  # of the distortion polynomial; 1 = affine at most
    min_affine: PositiveCount  # matches, fewer than this fit a shift only
    min_shift: PositiveCount  # matches, fewer than this keep the header's WCS
    error_floor_px: NonNegative  # science px, least registration scatter that enters the score's variance
    error_header_px: NonNegative  # science px, registration scatter assumed when the header's WCS is kept


@section
class ResampleConfig:
    """How the reference is brought onto the science grid."""

    order: Literal[1, 3, 5, 7, 9]  # degree of the interpolating spline
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
    coherent: bool  # treat the shift of a bright source as one vector instead of noise in each pixel
    coherent_share: Fraction  # least share of the astrometric term in the variance where that is done
    photometric_term: bool  # add the variance of the measured scatter of the stars' flux ratio
    psf_term: bool  # add the variance of the measured misfit of the PSFs
    correlated_noise: bool  # scale the noise by its measured correlation at the PSF's scale
    grow_fwhms: NonNegative  # FWHM, masks of extended defects (saturation, no coverage) are grown by this
    extended_px: PositiveCount  # px, a connected mask of at least this many pixels is an extended defect
    renormalise: Literal["never", "outside_tolerance", "always"]  # divide the score by its blank-sky width
    tolerance: Positive  # |width - 1| that counts as right


@section
class TilesConfig:
    """How the image is cut for the subtraction; every tile has the PSFs of its centre."""

    core_px: PositiveCount  # science px, largest side of a tile without its margins
    backend: Literal["pyfftw", "torch"]  # one tile after the other, or batches in torch
    device: Literal["auto", "cpu", "cuda"]  # of torch; auto = the GPU where there is one
    batch: PositiveCount  # tiles that are subtracted at once, with torch


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
    max_score_tail: NonNegative  # fraction of the blank sky beyond 5 sigma
    max_star_score: Positive  # median |score| on bright stars


@section
class DifferenceConfig:
    """The proper subtraction of a pair."""

    allow_cross_mission: bool  # accept a pair of different survey, instrument or filter
    min_overlap: Fraction  # of the science pixels that must have reference data
    psf: PsfConfig
    registration: RegistrationConfig
    resample: ResampleConfig
    flux_scale: FluxScaleConfig
    tiles: TilesConfig
    score: ScoreConfig
    gate: GateConfig


@section
class PairReportConfig:
    """Which pairs get a page of pictures in reports/difference; changes no product."""

    worst: Count  # pairs, the nearest to the gate's limits, beside every pair that the gate marks
    most: Count  # pairs in all, the worst first


@section
class ImagingConfig:
    """Calibration and subtraction."""

    calibrate: CalibrateConfig
    difference: DifferenceConfig
    report: PairReportConfig
