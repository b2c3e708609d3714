"""Star finding and the PSF estimate: used when an exposure is calibrated and when a pair is subtracted."""

from __future__ import annotations

from astrid.config.schema._base import Count, Fraction, Positive, PositiveCount, section


@section
class StarsConfig:
    """How stars are found and told from everything else."""

    threshold: Positive  # sigma, a pixel of the filtered image above this starts a source
    min_pixels: PositiveCount  # px, connected pixels of a source
    min_snr: Positive  # S/N in the aperture, to count as a star
    max_stars: PositiveCount  # the brightest that are kept, times the number of sections
    size_tolerance: Positive  # |ln(size / size of the stars)| of a star, at most
    max_elongation: Positive  # major over minor axis of a star, at most
    edge: PositiveCount  # px, nearer to the border than this is no star
    section_px: PositiveCount  # px, an image larger than this is searched in sections of at most this side
    overlap_px: PositiveCount  # px, by which a section is read beyond its border


@section
class PsfConfig:
    """How a PSF stamp is made from stars."""

    stars: StarsConfig
    min_snr: Positive  # S/N of a star that shapes the PSF
    max_stars: PositiveCount  # the brightest isolated stars that are used
    min_empirical: PositiveCount  # stars, fewer than this take the Moffat fit alone ...
    empirical_snr: Positive  # ... unless at least three besides the brightest have this S/N together
    min_moffat: PositiveCount  # stars, fewer than this take the Gaussian of `fallback_fwhm`
    isolation_fwhms: Positive  # FWHM, no neighbour nearer than this
    isolation_ratio: Fraction  # neighbour's flux over the star's that counts as a neighbour
    stamp_fwhms: Positive  # FWHM, half the side of the stamp
    core_fwhms: Positive  # FWHM, within this radius the shape is free; beyond, it is the Moffat fit
    knots_per_fwhm: Positive  # B-spline knots a FWHM of the free core
    roughness: Positive  # 1 sigma of the free parts' second differences between knots, in units of the PSF's peak
    max_degree: Count  # of the polynomial by which the core varies over the field; 0 = never
    stars_per_term: PositiveCount  # stars that a coefficient of that polynomial needs
    significance: Positive  # sigma, by which a higher degree must predict left-out stars better
    iterations: PositiveCount  # rounds of (positions and fluxes) and (shape)
    max_residual: Positive  # a star whose core residual is this many times the stars' median is dropped
    fallback_fwhm: Positive  # px, of the Gaussian when there is no star
