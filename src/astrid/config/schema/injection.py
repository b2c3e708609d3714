"""The `injection` group: point sources that are added to copies of the pairs before they are subtracted."""

from __future__ import annotations

from astrid.config.schema._base import Count, Fraction, NonNegative, Positive, PositiveCount, Seed, section


@section
class HostsConfig:
    """Which sources of the reference may be hosts of injected ones."""

    sigma: Positive  # sigma a pixel, isophote
    min_area: PositiveCount  # px
    extended_ratio: Positive  # size over that of the PSF


@section
class InjectionConfig:
    """How many copies of each pair, and what is added to each of them."""

    seed: Seed
    copies: Count  # of each pair; 0 = none
    density: Positive  # sources a Mpx of usable science pixels in one copy
    max_sources: PositiveCount  # in one copy
    min_snr: Positive  # range of the S/N in the difference, drawn evenly in its logarithm
    max_snr: Positive
    fading: Fraction  # share of the sources that are in the reference and not in the science exposure
    near_hosts: Fraction  # share that lies in or around a host, where there are any; the others lie anywhere
    max_dlr: Positive  # directional light radii of the host, drawn evenly from 0 to this
    apart_fwhms: NonNegative  # FWHM of the science PSF, least distance of two sources, and of one from a known change
    margin_px: NonNegative  # px, least distance from the border of either image
    width_scatter: Fraction  # relative RMS by which a source's width differs from the PSF model's
    hosts: HostsConfig

    def __post_init__(self) -> None:
        if self.min_snr > self.max_snr:
            raise ValueError(f"min_snr = {self.min_snr:g} is above max_snr = {self.max_snr:g}; swap them")
