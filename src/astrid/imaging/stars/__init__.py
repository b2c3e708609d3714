"""The stars of one exposure: where they are, and the PSF that they share."""
