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

    profile: Literal["moffat", "kolmogorov", "optical", "gaussian_wings"]
    fwhm: Positive  # arcsec, median
    fwhm_scatter: NonNegative  # sigma of ln(FWHM) from night to night
    beta: Annotated[float, Field(gt=1.1)]  # exponent of the Moffat profile (moffat, and the wings of gaussian_wings)
    aberration: NonNegative  # waves RMS of each low-order aberration (optical)
    diameter: Positive  # m, of the aperture (optical)
    wing_fraction: Fraction  # flux in the wings (gaussian_wings)
    wing_fwhm: Positive  # arcsec, of the wings (gaussian_wings)
    guiding: NonNegative  # RMS shear of an exposure
    field_shear: NonNegative  # shear in the corners of the detector
    trail_fraction: Fraction  # share of science exposures during which the guiding drifts
    trail: NonNegative  # arcsec, mean length of the trail that the drift draws
    spike_fraction: Fraction  # flux of a bright star in its diffraction spikes
    spike_angle: float  # deg, of the first spike
    spike_lines: Count  # lines of spikes, two spikes each
    spike_length: Positive  # pixel, over which a spike fades by e
    halo_fraction: Fraction  # flux of a bright star in its glare halo
    halo_radius: Positive  # pixel, of the glare halo
    glare_from: Positive  # share of the full well that the peak of a star reaches which shows spikes, halo and ghost
    spike_turn: NonNegative  # deg, RMS by which the spikes turn between exposures (alt-azimuth mounts)
    glare_scatter: NonNegative  # sigma of the log of the flux in spikes and halo between exposures (dust, humidity)


@section
class DetectorSpec:
    """The sensor and its electronics; each detector of the survey is drawn around these values."""

    gain: Positive  # electron/ADU
    read_noise: NonNegative  # electron
    bias: Positive  # ADU
    bias_structure: NonNegative  # ADU, amplitude of the fixed pattern
    full_well: Positive  # electron
    flat_scatter: NonNegative  # RMS pixel-to-pixel sensitivity
    flat_error: NonNegative  # RMS of a pixel's response to a star that the flat does not know
    vignetting: Fraction  # loss in the corners
    dust: Count  # shadows of dust grains
    hot_pixels: NonNegative  # a Mpixel
    hot_charge: Positive  # electron, median charge of a hot pixel in a science exposure
    hot_unmasked: Fraction  # share of hot pixels that the bad-pixel mask does not know
    dead_pixels: NonNegative  # a Mpixel
    bad_columns: Count
    hot_columns: NonNegative  # mean number of columns that leak charge and blink, unknown to the mask
    column_charge: Positive  # electron a pixel, median of such a column in a science exposure
    brighter_fatter: NonNegative  # relative growth of a star's FWHM at full well
    fringing: Fraction  # amplitude of the fringes at 900 nm relative to the sky; none below 700 nm
    amplifiers: Literal[1, 2]  # that read the sensor, each half of the columns
    amplifier_gain: NonNegative  # relative RMS drift of the second amplifier's gain between exposures
    amplifier_offset: NonNegative  # ADU, RMS drift of the second amplifier's level
    crosstalk: Fraction  # of a pixel's charge that appears at the mirrored pixel of the other amplifier
    persistence: Fraction  # of a full pixel's charge that comes back in the next exposure
    persistence_recorded: Fraction  # of the groups of full pixels that the observatory has on record for that exposure
    dead_border: NonNegative  # pixel, largest width of the border without response; each side's is drawn
    border_rolloff: NonNegative  # pixel, over which the response rises inside that border


@section
class WeatherSpec:
    """What changes from night to night."""

    moon: NonNegative  # mag by which the full moon brightens the sky
    sky_scatter: NonNegative  # mag, RMS from night to night
    season_sky: NonNegative  # mag, amplitude over the year
    extinction: NonNegative  # mag, scale of the night's clouds
    refraction: NonNegative  # arcsec, RMS displacement of a star of unit colour by differential refraction
    image_motion: NonNegative  # arcsec, RMS displacement of stars over the field by turbulence, in a single exposure
    cloud_patches: NonNegative  # RMS of a cloud's extinction over the field, relative to its mean
    gradient: NonNegative  # RMS relative change of the sky over half the image
    moon_glow: NonNegative  # relative excess of the sky in a corner under a full moon
    stray_light: NonNegative  # mean number of arcs of stray light an exposure under a full moon
    stray_level: NonNegative  # brightness of such an arc relative to the sky


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
    sersic: Positive  # median index of the spheroids
    sersic_scatter: NonNegative  # sigma of ln(index)
    structure: Fraction  # share of galaxies with spiral arms and knots
    cluster: Fraction  # share of galaxies that are members of a cluster in the field, with early types in its core
    supernovae: Count  # a field
    hostless: Fraction  # share of supernovae without a visible host
    nuclear: Fraction  # share of hosted supernovae on the host's core
    peak_range: Positive  # mag, supernovae peak between this much above and `peak_below` under the limit
    peak_below: NonNegative  # mag
    fading: Fraction  # share of supernovae that shine in the reference
    variables: Count  # a field
    variable_range: Annotated[float, Field(gt=0.3)]  # mag above the limit of the brightest variables' mean
    amplitude_scatter: NonNegative  # sigma of the log of a variable's amplitude about its class's
    amplitude_least: Positive  # mag, smallest amplitude of a variable
    outbursts: Count  # novae, dwarf novae and flares a field, each near one of its exposures
    asteroids: NonNegative  # mean number an exposure


@section
class ArtifactSpec:
    """What is in the image and not on the sky."""

    cosmic_rays: NonNegative  # a Mpixel and science exposure; a reference has as many
    compact: Fraction  # share of cosmic rays that hit one to three pixels
    cosmic_charge: Positive  # electron, median of a compact hit
    diffusion: NonNegative  # pixel, sigma by which a particle's charge spreads before the pixels collect it
    satellites: NonNegative  # mean number of trails an exposure
    glints: NonNegative  # mean number of glinting satellites a science exposure, each of a few dashes
    ghost_fraction: Fraction  # flux of a bright star in its ghost
    ghost_radius: Positive  # pixel, of the ghost's ring
    ghost_mirror: Positive  # distance of a ghost from the middle of the image over the star's, on the other side
    off_chip: NonNegative  # mean number a field of very bright stars beside the chip, whose glare and ghosts reach it


@section
class SurveySpec:
    """One synthetic survey."""

    telescope: str
    instrument: str
    pixel_scale: Positive  # arcsec
    s_ra: Annotated[float, Field(ge=0, lt=360)]  # deg, first field
    s_dec: Annotated[float, Field(ge=-80, le=80)]  # deg, first field
    exptime: Positive  # s, science
    reference_exptime: Positive  # s, each exposure of the reference
    reference_frames: PositiveCount  # exposures averaged in the reference
    reference_lead: Positive  # d from the reference to the first season of the field
    header_error: Positive  # factor on the errors of the header's position, angle and scale
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


@section
class PointingSpec:
    """Where the telescope really points, and what the header says."""

    dither: NonNegative  # pixel, RMS
    reference_dither: NonNegative  # pixel, RMS of the references
    shift_min: NonNegative  # arcsec, error of the header's position
    shift_max: Positive  # arcsec
    rotation: NonNegative  # deg, RMS error of the header's angle
    scale: NonNegative  # relative RMS error of the header's pixel scale
    bad_fraction: Fraction  # share of exposures with bad guiding and a worse header
    bad_factor: Positive  # by which those errors and the guiding shear grow


Span = Annotated[tuple[float, float], Field(min_length=2, max_length=2)]  # lowest and highest value
Spans = dict[str, dict[str, Span]]  # of keys of a survey: part, key


@section
class BandSpec:
    """A band from which random surveys choose."""

    wavelength: Positive  # nm, effective
    zeropoint: Positive  # AB mag that gives one electron a second behind an aperture of 1 m
    sky: Positive  # mag/arcsec2 of the dark sky


@section
class RandomSpec:
    """Surveys that are drawn at random; what is not named here is as in the survey that the draw starts from."""

    surveys: PositiveCount
    detectors: Words
    bands: Annotated[dict[str, BandSpec], Field(min_length=1)]
    aperture: Span  # m, even in its log
    fwhm: Span  # arcsec, even in its log
    fwhm_pixels: Span  # pixel, even in its log
    exptime: Span  # s, even in its log
    reference_frames: Span  # exposures stacked in the reference, even in the log
    reference_age: Span  # d from the reference to the first season, even in the log
    header_shift: Span  # pixel, largest error of the header's position, even in its log
    star_bright: Span  # mag by which the brightest star is beyond saturation
    star_faint: Span  # mag by which the faintest star is below the limit
    galaxy_bright: Span  # mag by which the brightest galaxy is above the limit
    galaxy_faint: Span  # mag by which the faintest galaxy is below the limit
    uniform: Spans
    log: Spans  # even in the log
    integer: Spans  # whole numbers, both ends included
    choice: dict[str, dict[str, tuple[str | int | float, ...]]]  # one of these
    absent: dict[str, dict[str, Fraction]]  # share of surveys in which the drawn key is 0 instead
    unit: dict[str, dict[str, Literal["fwhm", "noise", "noise_adu"]]]  # a key drawn in FWHM, sky noise (electron) or sky noise (ADU)


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
    random: RandomSpec | None  # surveys drawn at random in place of those
