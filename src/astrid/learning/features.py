"""The measured columns of a candidate that the baseline may see: shapes and significances, never places, names or dates."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from astrid.core.errors import DataSetError

# Columns of the CANDIDATES table that are taken as they are.
MEASURED = (
    "snr",
    "fwhm",
    "elongation",
    "sharpness",
    "roundness",
    "symmetry",
    "chi2",
    "science_snr",
    "reference_snr",
    "bad_fraction",
    "host_dlr",
    "psf_fwhm",
)
# Distances say something only near by; a far one depends on the detector's size. Pixels beyond which they are all alike.
CLIPPED = {"edge_distance": 64.0, "star_distance": 64.0}
COLUMNS = (*MEASURED, *CLIPPED)  # that `feature_matrix` needs of a table
FEATURES = (*MEASURED, *CLIPPED, "fwhm_ratio")


def feature_matrix(table: pd.DataFrame) -> NDArray[np.float32]:
    """Features of candidates, float32 (n, len(FEATURES)), in the order of `FEATURES`.

    `fwhm_ratio` is the source's width over the PSF's, which frees it from the survey's pixel scale. A value that was not
    measured stays NaN (the forest sends it where its training rows went); an infinite one becomes NaN.

    Raises `DataSetError` when the table lacks a column.
    """
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        raise DataSetError(f"the candidate table lacks the feature column {missing[0]!r}; run the stage detect again.")
    matrix = np.empty((len(table), len(FEATURES)), np.float32)
    for number, name in enumerate(FEATURES):
        values = _feature(table, name)
        matrix[:, number] = np.where(np.abs(values) > np.finfo(np.float32).max, np.nan, values)
    return matrix


def _feature(table: pd.DataFrame, name: str) -> NDArray[np.float64]:
    if name == "fwhm_ratio":
        psf = table["psf_fwhm"].to_numpy(dtype=np.float64)
        return np.asarray(table["fwhm"].to_numpy(dtype=np.float64) / np.where(psf > 0, psf, np.nan))
    return np.asarray(np.minimum(table[name].to_numpy(dtype=np.float64), CLIPPED.get(name, np.inf)))
