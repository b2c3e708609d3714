"""One thread a numerical library: parallelism is over exposures and pairs, in processes."""

from __future__ import annotations

import os

# Read by OpenMP, OpenBLAS and the like when they are loaded, so they must be set before numpy is imported.
VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def hold_to_one_thread() -> None:
    """Set the libraries' thread variables to 1 where the user has not set them. torch's own threads are set by `train.threads`."""
    for name in VARIABLES:
        os.environ.setdefault(name, "1")
