"""Planned real transforms of small planes, float32 on one thread, with their buffers.

FFTW's plans are estimated, not measured: at the lengths of `tiles.LENGTHS` a measured plan is a fifth faster, but it takes half a
second to make and may differ from run to run, and with it the last digits of every product.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from astrid.core.records import FloatImage

Hat = NDArray[np.complex64]

KEPT = 2  # shapes whose plans and buffers are kept, a thread


class Workspace:
    """Plans and buffers of one shape, for one pair at a time."""

    def __init__(self, shape: tuple[int, int]) -> None:
        import pyfftw

        self.shape = shape
        self.staging = [aligned(shape) for _ in range(4)]  # N, V(N), R, V(R)
        self.planes = [aligned(shape) for _ in range(4)]  # D, S_n, S_r, V(S)
        self.hats = [self.new_hat() for _ in range(3)]
        real, hat = self.staging[0], self.hats[0]
        flags = ("FFTW_ESTIMATE", "FFTW_DESTROY_INPUT")
        self._forward = pyfftw.FFTW(real, hat, axes=(0, 1), direction="FFTW_FORWARD", flags=flags[:1], threads=1)
        self._inverse = pyfftw.FFTW(hat, real, axes=(0, 1), direction="FFTW_BACKWARD", flags=flags, threads=1)
        self._is_aligned = pyfftw.is_byte_aligned

    def new_hat(self) -> Hat:
        """Memory for a transform, (ny, nx // 2 + 1) complex64, that suits the plans."""
        import pyfftw

        return np.asarray(pyfftw.empty_aligned((self.shape[0], self.shape[1] // 2 + 1), dtype="complex64"))

    def forward(self, plane: FloatImage, hat: Hat, staging: FloatImage) -> Hat:
        """Transform of a plane into `hat`, not normalised; by way of `staging` where the plane's memory does not suit."""
        if plane.dtype != np.float32 or not plane.flags.c_contiguous or not self._is_aligned(plane):
            staging[...] = plane
            plane = staging
        self._forward.update_arrays(plane, hat)
        self._forward.execute()
        return hat

    def inverse(self, hat: Hat, plane: FloatImage) -> FloatImage:
        """Inverse transform into `plane`, not normalised; `hat` is lost."""
        self._inverse.update_arrays(hat, plane)
        self._inverse.execute()
        return plane


class _Local(threading.local):
    """What a thread keeps: the workspaces of the last shapes."""

    def __init__(self) -> None:
        self.kept: OrderedDict[tuple[int, int], Workspace] = OrderedDict()


_LOCAL = _Local()


def workspace(shape: tuple[int, int]) -> Workspace:
    """The workspace of a shape, this thread's own; what it held before is lost."""
    kept = _LOCAL.kept
    if shape not in kept:
        kept[shape] = Workspace(shape)
        if len(kept) > KEPT:
            kept.popitem(last=False)
    kept.move_to_end(shape)
    return kept[shape]


def aligned(shape: tuple[int, int]) -> FloatImage:
    """An empty float32 plane that is transformed where it lies."""
    import pyfftw

    return np.asarray(pyfftw.empty_aligned(shape, dtype="float32"))


def padded_shape(shape: tuple[int, int], reach: int) -> tuple[int, int]:
    """The least fast even transform lengths of a whole image that keep `reach` px of padding."""
    import pyfftw

    def fast(length: int) -> int:
        good = int(pyfftw.next_fast_len(length + reach))
        while good % 2:
            good = int(pyfftw.next_fast_len(good + 1))
        return good

    return fast(shape[0]), fast(shape[1])
