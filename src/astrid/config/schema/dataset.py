"""The `dataset` group: how candidates become labelled triplets."""

from __future__ import annotations

from astrid.config.schema._base import Count, Fraction, NonNegative, Positive, PositiveCount, Seed, section
from astrid.config.schema.candidates import Tag


@section
class DatasetConfig:
    """Labels, identity on the sky, balance and the form of the store."""

    seed: Seed  # of the choice that max_bogus_per_pair makes
    rows_per_shard: PositiveCount
    match_radius_fwhm: Positive  # PSF FWHM; a truth row this near is the candidate's
    min_match_radius: Positive  # pixel; floor of the radius, for undersampled images
    ambiguous_radius_fwhm: NonNegative  # PSF FWHM; a bright truth this near leaves a candidate unlabelled
    min_true_snr: Positive  # true flux difference over flux_err that counts as there
    unmatched_are_bogus: bool  # only where the truth of the exposure is complete
    catalog_radius: Positive  # arcsec
    catalog_margin: NonNegative  # d before the discovery date that still count
    catalog_confidence: Fraction
    evidence_tags: tuple[Tag, ...]  # tags that alone make a bogus where no truth is known
    evidence_confidence: Fraction
    cell_size: Positive  # arcmin; side of a sky cell
    max_bogus_per_pair: Count  # 0 = all
    keep_unlabelled: bool  # keep unlabelled triplets in the store (for review and scoring)
