"""Two exposures on one grid and one flux scale."""
