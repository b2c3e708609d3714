"""Truth rows of artefacts: where each shows in an exposure, and how bright a point source it looks there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, signal

from astrid.sky.simulate.optics import EffectivePsf, stamp

Floats = NDArray[np.float64]

_MOST = 300  # rows of an artefact of known outline in an exposure
_MOST_CELLS = 1000  # rows of one kind of light in an exposure
LOCAL, SPREAD = 4, 8  # pixel, side of the cells of which each gives at most one mark: of sharp light, and of light over many PSFs
_SEEN = 2.5  # sigma of a PSF flux: half of what a detection needs
_CORE = 1.5  # FWHM, half width of the matched filter
_MESH = 8  # pixel, side of the cells whose medians a background follows
_SMOOTH = 4.0  # cells, sigma of what it follows of them: half of a mesh of 64 pixels


@dataclass(frozen=True, slots=True)
class Mark:
    """One truth row of an artefact: an extended one has several under one name."""

    name: str
    kind: str
    x: float
    y: float
    electrons: float


@dataclass(frozen=True, eq=False)
class Photometry:
    """PSF photometry of one exposure, by which the light of artefacts is judged as that of sources is."""

    weights: Floats  # P / sum P^2 of the PSF P at the middle of the detector: the matched filter of even noise
    error: float  # electrons, of a PSF flux on blank sky

    @classmethod
    def of(cls, psf: EffectivePsf, fwhm: float, noise: float) -> Photometry:
        """That of a PSF of `fwhm` pixels in a noise of `noise` electrons a pixel."""
        middle = psf.size // 2
        _, _, values = stamp(psf, middle, middle, int(np.ceil(_CORE * fwhm)) + 1)
        power = float((values**2).sum())
        return cls(values / power, noise / float(np.sqrt(power)))

    def marks(self, name: str, kind: str, light: Floats, cell: int) -> list[Mark]:
        """Marks where light or charge (expected electrons, (ny, nx)) passes for a source; `electrons` is its PSF flux, of either sign.

        A smooth background is taken off first, as calibration does. At most one mark in a cell of `cell` pixels, and the strongest
        thousand in all.
        """
        if np.ptp(light) * np.abs(self.weights).sum() < _SEEN * self.error:
            return []
        flux = signal.oaconvolve(light - _background(light), self.weights[::-1, ::-1], mode="same")
        tiles = tiled(flux, cell)
        best = np.abs(tiles).argmax(axis=2)
        height = np.take_along_axis(tiles, best[:, :, None], axis=2)[:, :, 0]
        found = np.argwhere(np.abs(height) > _SEEN * self.error)
        strongest = found[np.argsort(-np.abs(height[tuple(found.T)]), kind="stable")][:_MOST_CELLS]
        return [
            Mark(
                name,
                kind,
                float(column * cell + best[row, column] % cell),
                float(row * cell + best[row, column] // cell),
                float(height[row, column]),
            )
            for row, column in strongest.tolist()
        ]


def _background(light: Floats) -> Floats:
    """What a mesh of medians follows of an image, linear between its cells."""
    smooth = ndimage.gaussian_filter(np.median(tiled(light, _MESH), axis=2), _SMOOTH, mode="nearest")
    place = [(np.arange(length) + 0.5) / _MESH - 0.5 for length in light.shape]
    return np.asarray(ndimage.map_coordinates(smooth, np.meshgrid(*place, indexing="ij"), order=1, mode="nearest"))


def tiled(image: Floats, cell: int) -> Floats:
    """The whole cells of an image: (rows, columns, pixels of a cell)."""
    rows, columns = (length // cell for length in image.shape)
    blocks = image[: rows * cell, : columns * cell].reshape(rows, cell, columns, cell)
    return blocks.transpose(0, 2, 1, 3).reshape(rows, columns, -1)


def thinned(marks: list[Mark], size: int) -> list[Mark]:
    """The marks on the sensor, of a great number every n-th."""
    inside = [mark for mark in marks if 0 <= mark.x <= size - 1 and 0 <= mark.y <= size - 1]
    return inside[:: -(-len(inside) // _MOST) or 1]
