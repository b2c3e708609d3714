"""One thread a numerical library: parallelism is over exposures, pairs and batches, in processes."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

# Read by OpenMP, OpenBLAS and the like when they are loaded, so they must be set before numpy is imported.
VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def hold_to_one_thread() -> None:
    """Set the libraries' thread variables to 1 where the user has not set them. torch's own threads are set by `train.threads`."""
    for name in VARIABLES:
        os.environ.setdefault(name, "1")


def one_thread() -> AbstractContextManager[object]:
    """While the block lasts, NumPy's products of matrices run on one thread: the last bits depend on the number. Takes 12 microseconds."""
    limited: AbstractContextManager[object] = _libraries().limit(limits=1, user_api="blas")
    return limited


@cache
def _libraries() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
