"""The synthetic surveys: instruments, sky, schedule and everything that goes wrong."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from astrid.config.schema._base import Count, Fraction, NonNegative, Positive, PositiveCount, Seed, section

Season = Annotated[int, Field(ge=1)]
Words = Annotated[tuple[str, ...], Field(min_length=1)]
ImageSize = Annotated[int, Field(ge=64)]


@section
class FilterSpec:
    """A band of one survey."""

    wavelength: Positive  # nm, effective
    zeropoint: Positive  # AB mag that gives one electron a second
    sky: Positive  # mag/arcsec2 of the dark sky
    limit: Positive  # AB mag of a point source at about 5 sigma in one science exposure


@section
class PsfSpec:
    """The point-spread function, before guiding and the night's seeing change it."""

    profile: Literal["moffat", "optical", "gaussian_wings"]
    fwhm: Positive  # arcsec, median
    fwhm_scatter: NonNegative  # sigma of ln(FWHM) from night to night
    beta: Annotated[float, Field(gt=1.1)]  # exponent of the Moffat profile (moffat, and the wings of gaussian_wings)
    aberration: NonNegative  # waves RMS of each low-order aberration (optical)
    diameter: Positive  # m, of the aperture (optical)
    wing_fraction: Fraction  # flux in the wings (gaussian_wings)
    wing_fwhm: Positive  # arcsec, of the wings (gaussian_wings)
    guiding: NonNegative  # RMS shear of an exposure
    field_shear: NonNegative  # shear in the corners of the detector
    spike_fraction: Fraction  # flux of a bright star in its four diffraction spikes
    spike_angle: float  # deg, of the first spike
    halo_fraction: Fraction  # flux of a bright star in its glare halo


@section
class DetectorSpec:
    """The sensor and its electronics; each detector of the survey is drawn around these values."""

    gain: Positive  # electron/ADU
    read_noise: NonNegative  # electron
    bias: Positive  # ADU
    bias_structure: NonNegative  # ADU, amplitude of the fixed pattern
    full_well: Positive  # electron
    flat_scatter: NonNegative  # RMS pixel-to-pixel sensitivity
    vignetting: Fraction  # loss in the corners
    dust: Count  # shadows of dust grains
    hot_pixels: NonNegative  # a Mpixel
    hot_charge: Positive  # electron, median charge of a hot pixel in a science exposure
    hot_unmasked: Fraction  # share of hot pixels that the bad-pixel mask does not know
    dead_pixels: NonNegative  # a Mpixel
    bad_columns: Count


@section
class WeatherSpec:
    """What changes from night to night."""

    moon: NonNegative  # mag by which the full moon brightens the sky
    sky_scatter: NonNegative  # mag, RMS from night to night
    season_sky: NonNegative  # mag, amplitude over the year
    extinction: NonNegative  # mag, scale of the night's clouds
    refraction: NonNegative  # arcsec, RMS displacement of a star of unit colour by differential refraction


@section
class SceneSpec:
    """What is on the sky."""

    stars: NonNegative  # a Mpixel
    star_bright: float  # mag
    star_faint: float  # mag
    star_slope: Positive  # d log10(N) / d mag
    moving_stars: Fraction  # share of stars with a large proper motion
    galaxies: NonNegative  # a Mpixel
    galaxy_bright: float  # mag
    galaxy_faint: float  # mag
    galaxy_radius: Positive  # arcsec, median half-light radius at the faint end
    supernovae: Count  # a field
    hostless: Fraction  # share of supernovae without a visible host
    nuclear: Fraction  # share of hosted supernovae on the host's core
    peak_range: Positive  # mag, supernovae peak between this much above and `peak_below` under the limit
    peak_below: NonNegative  # mag
    variables: Count  # a field
    asteroids: NonNegative  # mean number an exposure


@section
class ArtifactSpec:
    """What is in the image and not on the sky."""

    cosmic_rays: NonNegative  # a Mpixel and science exposure; a reference has as many
    compact: Fraction  # share of cosmic rays that hit one to three pixels
    cosmic_charge: Positive  # electron, median of a compact hit
    satellites: NonNegative  # mean number of trails an exposure
    ghost_fraction: Fraction  # flux of a bright star in its ghost


@section
class SurveySpec:
    """One synthetic survey."""

    telescope: str
    instrument: str
    pixel_scale: Positive  # arcsec
    s_ra: Annotated[float, Field(ge=0, lt=360)]  # deg, first field
    s_dec: Annotated[float, Field(ge=-80, le=80)]  # deg, first field
    exptime: Positive  # s, science
    reference_exptime: Positive  # s
    detectors: Words
    filters: Annotated[dict[str, FilterSpec], Field(min_length=1)]
    psf: PsfSpec
    detector: DetectorSpec
    weather: WeatherSpec
    scene: SceneSpec
    artifacts: ArtifactSpec


@section
class ScheduleSpec:
    """When and where is observed."""

    fields: PositiveCount  # a detector
    field_spacing: Positive  # deg between neighbouring fields
    two_filter_fields: Count  # the first fields are observed in every filter, the others in one
    epochs: PositiveCount  # science exposures a field and filter
    season_starts: Annotated[tuple[float, ...], Field(min_length=1)]  # MJD
    season_days: Positive  # d
    field_seasons: Annotated[tuple[tuple[Season, ...], ...], Field(min_length=1)]  # seasons of each field, repeated in turn
    reference_lead: Positive  # d from the reference to the first season of the field


@section
class PointingSpec:
    """Where the telescope really points, and what the header says."""

    dither: NonNegative  # pixel, RMS
    shift_min: NonNegative  # arcsec, error of the header's position
    shift_max: Positive  # arcsec
    rotation: NonNegative  # deg, RMS error of the header's angle
    scale: NonNegative  # relative RMS error of the header's pixel scale
    bad_fraction: Fraction  # share of exposures with bad guiding and a worse header
    bad_factor: Positive  # by which those errors and the guiding shear grow


@section
class SimulateConfig:
    """Everything that decides the simulated sky, bit for bit."""

    seed: Seed
    image_size: ImageSize  # pixel, side of the light-sensitive area
    overscan: PositiveCount  # pixel columns
    calibration_frames: PositiveCount  # raw frames in each master bias and flat
    schedule: ScheduleSpec
    pointing: PointingSpec
    surveys: Annotated[dict[str, SurveySpec], Field(min_length=1)]
