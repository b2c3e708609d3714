"""The calibration of one exposure: detector, cosmic rays, sky, variance and PSF."""

from __future__ import annotations

from typing import Literal

from astrid.config.schema._base import Count, Fraction, NonNegative, Positive, PositiveCount, section
from astrid.config.schema.psf import PsfConfig


@section
class AmplifierConfig:
    """One readout channel of raw frames whose headers name none; sections are [x1:x2,y1:y2], 1-based and inclusive."""

    name: str
    data: str  # section of its exposed pixels
    overscan: str | None
    gain: Positive | None  # electron/ADU; null takes the exposure's
    read_noise: NonNegative | None  # electron; null takes the exposure's, or the overscan's scatter
    saturation: Positive | None  # ADU; null takes the exposure's


@section
class DetectorConfig:
    """What the detector did to the photons, and which of its pixels cannot be used."""

    overscan_clip: Positive  # sigma, overscan pixels farther than this from their row's level are dropped
    saturation_fraction: Fraction  # of the saturation level; at or above it a pixel counts as saturated
    bleed_min_px: PositiveCount  # px, a saturated run along a column at least this long carries a bleed trail
    bleed_grow_px: Count  # px, the trail is grown along the column by this, and by one column to each side
    bleed_sigma: Positive  # sigma, a trail is followed while it stands above the pixels beside it by this
    bleed_along: Literal["columns", "rows"]  # the way of the charge
    linearity: tuple[float, ...]  # k1, k2, ... of counts * (1 + k1 counts + k2 counts^2 + ...), 1/ADU, 1/ADU^2, ...; empty = linear
    amplifiers: tuple[AmplifierConfig, ...]  # of raw frames whose headers name none; empty = one channel
    hot_sigma: Positive  # sigma of the master bias or dark; a pixel above its median by this is hot
    dead_fraction: Fraction  # of the master flat's median; a pixel below it is dead
    edge_px: Count  # px, margin of the detector that is marked as edge


@section
class CrosstalkConfig:
    """What one amplifier leaves of its charge in another; it is measured and flagged, not corrected."""

    layout: Literal["header", "mirrored", "none"]  # of raw frames; mirrored = two halves of the columns, each read from its outer end
    aggressor_sigma: Positive  # sigma of the sky, pixels above this tell the share
    source_sigma: Positive  # sigma of the smoothed rest, above which a pixel belongs to a source of its own
    level_px: Positive  # px, width of the weights under which the local sky is taken
    max_share: Fraction  # largest share that is looked for
    sigma: Positive  # of its error, beyond which a share is believed
    flag_sigma: Positive  # sigma of a pixel, crosstalk beyond this is flagged


@section
class CosmicsConfig:
    """L.A.Cosmic (van Dokkum 2001, PASP 113, 1420), guarded by the sharpness that the PSF allows."""

    apply_to: Literal["raw", "every", "none"]  # exposures that are searched: raw ones, archive-calibrated ones too, none
    sigma: Positive  # sigma, Laplacian-to-noise limit of a cosmic ray
    neighbour_fraction: Fraction  # of `sigma`, limit of the pixels beside one
    object_contrast: Positive  # least contrast of the Laplacian over the fine structure
    iterations: PositiveCount  # rounds at most
    sharpness_margin: NonNegative  # a group stays when it is sharper than a point source by this, relative to its peak
    sharpness_sigma: NonNegative  # and by this many sigma of its pixels


@section
class BackgroundConfig:
    """The sky and its RMS."""

    mesh_px: PositiveCount  # px, side of a mesh cell; larger than the galaxies that are to stay
    filter_cells: PositiveCount  # cells, side of the median filter over the mesh
    source_sigma: Positive  # sigma, pixels of the smoothed image above this are sources and masked
    source_grow_px: Count  # px, sources are grown by this before they are masked
    iterations: PositiveCount  # rounds of (mask, sky)
    max_masked_fraction: Fraction  # of the pixels; beyond it no sky can be measured and the exposure is refused
    archive_sky: Literal["mesh", "constant", "none"]  # sky removed from an archive-calibrated image: mesh, its median, nothing


@section
class CountsConfig:
    """Exposures with so few photons that noise and sky follow Poisson's law, not a Gaussian's."""

    few: Positive  # electrons a pixel; at a lower median variance the variance is modelled from sky and sources
    source_probability: Fraction  # that empty sky reaches the counts which make a source, at one position
    apertures_px: tuple[Positive, ...]  # px, radii of the discs in which sources are looked for
    least: Positive  # counts in a cell of the mesh; with fewer the cells are made larger


@section
class GivenPsfConfig:
    """How a PSF stamp that comes with the exposure is cut."""

    enclosed: Fraction  # of its flux, within the stamp that is kept
    max_px: PositiveCount  # px, largest side that is kept


@section
class CalibrateConfig:
    """Raw or archive-calibrated exposure -> sky-subtracted image with variance, DQ and PSF."""

    max_unusable_fraction: Fraction  # of the pixels; an exposure with more is quarantined
    detector: DetectorConfig
    crosstalk: CrosstalkConfig
    cosmics: CosmicsConfig
    background: BackgroundConfig
    counts: CountsConfig
    given_psf: GivenPsfConfig
    psf: PsfConfig
