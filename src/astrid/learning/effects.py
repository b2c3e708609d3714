"""What a telescope might have done to a triplet: effects on raw stamps, in flux, before they are normalised.

Each effect changes an epoch (science or reference) and puts what the change leaves into the difference, which is science
minus reference times the sign of the candidate, so the three stamps stay one observation. Each keeps what the label says:
the light at the centre of the difference changes by less than a fifth (`_tempered`), noise keeps its strength and
spectrum unless noise is the effect, and masked pixels stay masked.

Every effect draws from a generator of its own: switching one on or off leaves the draws of the others as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from astrid.config.schema.train import AugmentConfig
from astrid.datasets.normalize import STAMP_SHAPE, levels

Draws = Callable[[str], np.random.Generator]  # the generator of an effect, by its name
Stamps = NDArray[np.float32]
Rows = NDArray[np.intp]

_SIDE = STAMP_SHAPE[1]
_CENTRE = _SIDE // 2
_DIFFERENCE = 2  # channel

_STRIKE = 0.5  # probability of each effect on a triplet that is open to them
_CORE = 1.5  # px, sigma of the Gaussian weight of the centre
_KEPT = 0.2  # largest change of the centre's flux in the difference, relative to it

_HALF_WIDTH = 14  # px, of the interpolation kernel
_SHAPE = 5.0  # of its Kaiser window
_STEPS = 32  # of a sub-pixel shift, a pixel
_LOST = 0.25  # share of masked light above which a shifted pixel is masked


@dataclass(frozen=True)
class Plan:
    """Which triplets of a batch are struck by which effects, and the generators that go on to draw the strengths."""

    count: int  # triplets of the batch
    struck: Mapping[str, NDArray[np.bool_]]  # (count,) by effect, in the order in which the effects come
    generators: Mapping[str, np.random.Generator]

    @property
    def touched(self) -> Rows:
        """Positions within the batch of the triplets that any effect strikes, ascending."""
        return np.flatnonzero(np.logical_or.reduce([np.zeros(self.count, dtype=bool), *self.struck.values()]))


@dataclass(frozen=True, eq=False)
class _Scene:
    """The touched triplets, changed in place."""

    stamps: Stamps  # (n, 3, 63, 63)
    signs: Stamps  # (n,) of the difference: +1 science minus reference, -1 the other way round
    background: Stamps  # (n, 2) of science and reference
    noise: Stamps  # (n, 2) standard deviation a pixel

    def epoch(self, rows: Rows, which: Rows) -> Stamps:
        """Light above the background of one epoch of each row, (k, 63, 63); masked pixels have none."""
        light = self.stamps[rows, which] - self.background[rows, which, None, None]
        light[np.isnan(light)] = 0
        return light

    def change(self, rows: Rows, which: Rows, by: Stamps) -> None:
        """Add (k, 63, 63) to one epoch of each row, and to its difference what that leaves there."""
        self.stamps[rows, which] += by
        self.stamps[rows, _DIFFERENCE] += self.toward(rows, which)[:, None, None] * by

    def toward(self, rows: Rows, which: Rows) -> Stamps:
        """The sign, (k,), with which light of an epoch stands in the difference."""
        return self.signs[rows] * (1 - 2 * which).astype(np.float32)

    def centre(self, rows: Rows) -> Stamps:
        """Flux of the differences within the weight of the centre, (k,)."""
        return _centred(np.nan_to_num(self.stamps[rows, _DIFFERENCE]))


def plan(cfg: AugmentConfig, count: int, draws: Draws) -> Plan:
    """Draw which of `count` triplets the effects of `cfg` strike: a share `cfg.share` is open to them, each strikes half of those.

    Effects fall together on some triplets and leave the others as they were measured, which need not be read again then.
    """
    active = [name for name, _ in _EFFECTS if getattr(cfg, name) > 0 and cfg.share > 0]
    generators = {name: draws(name) for name in active}
    exposed = draws("share").random(count) < cfg.share if active else np.zeros(count, dtype=bool)
    return Plan(count, {name: exposed & (rng.random(count) < _STRIKE) for name, rng in generators.items()}, generators)


def distort(stamps: Stamps, signs: NDArray[np.integer], cfg: AugmentConfig, planned: Plan) -> Stamps:
    """Apply the effects of a plan to the triplets that it touches.

    Parameters
    ----------
    stamps
        float32 (n, 3, 63, 63), not normalised, of the triplets `planned.touched`: science, reference, sign * difference; NaN
        where masked.
    signs
        (n,) of the candidates: +1 brightened, -1 faded.

    Returns
    -------
    float32 array of the same shape; a new array, the input is left as it is.
    """
    out = np.where(np.isfinite(stamps), stamps, np.float32(np.nan))
    background, noise = levels(out)
    own = np.where(noise[:, 2:] > 0, np.minimum(noise[:, :2], noise[:, 2:]), noise[:, :2])  # neighbours are no noise
    scene = _Scene(out, signs.astype(np.float32), background[:, :2], own)
    for name, effect in _EFFECTS:
        if name in planned.struck:
            rows = np.flatnonzero(planned.struck[name][planned.touched])
            effect(scene, rows, getattr(cfg, name), planned.generators[name])
    return out


def _subpixel(scene: _Scene, rows: Rows, largest: float, rng: np.random.Generator) -> None:
    """Shift the three stamps together by up to `largest` px along each axis, mirrored at the edge.

    A sinc in a Kaiser window passes all but the highest frequencies, so noise keeps 0.94 of its standard deviation or more;
    linear interpolation would leave 0.5 at half a pixel, and a network would know shifted stamps by it. What is sharper than
    any PSF (a hit of one pixel) rings, as it does in a resampled reference.
    """
    steps = np.rint(rng.uniform(-largest, largest, (2, len(rows))) * _STEPS).astype(np.intp)
    down, right = _interpolation()[steps + _STEPS]
    masked = np.isnan(scene.stamps[rows])
    background = np.concatenate([scene.background[rows], np.zeros((len(rows), 1), np.float32)], axis=1)[:, :, None, None]
    light = np.nan_to_num(scene.stamps[rows] - background, nan=0.0)
    moved = down[:, None] @ light @ right[:, None].swapaxes(-1, -2) + background
    moved[_moved_mask(masked, steps / _STEPS) > _LOST] = np.nan
    scene.stamps[rows] = moved


def _moved_mask(masked: NDArray[np.bool_], shifts: NDArray[np.float64]) -> Stamps:
    """Share of masked light in every shifted pixel, by linear interpolation: (k, 3, 63, 63) for (2, k) shifts."""
    share = masked.astype(np.float32)
    for axis, shift in ((2, shifts[0]), (3, shifts[1])):
        last = share.shape[axis] - 1
        before = np.take(share, np.maximum(np.arange(last + 1) - 1, 0), axis)
        after = np.take(share, np.minimum(np.arange(last + 1) + 1, last), axis)
        size = np.abs(shift).astype(np.float32)[:, None, None, None]
        share = (1 - size) * share + size * np.where((shift > 0)[:, None, None, None], before, after)
    return share


def _gain(scene: _Scene, rows: Rows, spread: float, rng: np.random.Generator) -> None:
    """An error of the flux scale of one epoch: its light times 1 + e, e Gaussian of the relative width `spread`."""
    which = rng.integers(2, size=len(rows))
    error = (rng.standard_normal(len(rows)) * spread).astype(np.float32)
    light = scene.epoch(rows, which)
    by = error[:, None, None] * light
    scene.change(rows, which, _tempered(scene, rows, _centred(by))[:, None, None] * by)


def _blur(scene: _Scene, rows: Rows, largest: float, rng: np.random.Generator) -> None:
    """The PSF of one epoch was wider than its model says: a Gaussian of up to `largest` px (sigma) over it.

    Stars, hosts and the source leave rings in the difference. The blur is a product with K in the space of cosines
    (a mirrored image); the noise that it takes comes back as white noise times sqrt(1 - K^2), so that its power stays.
    """
    which = rng.integers(2, size=len(rows))
    sigma = rng.uniform(0, largest, len(rows)).astype(np.float32)
    cosines, frequency = _cosines()
    light = cosines @ scene.epoch(rows, which) @ cosines.T
    transfer = np.exp(-(sigma[:, None] ** 2) * frequency**2 / 2)
    lost = light * (transfer[:, :, None] * transfer[:, None, :] - 1)
    weight = np.asarray(
        cosines @ _centre_weight() @ cosines.T, dtype=np.float32
    )  # the cosines are orthonormal: sums of products stay as they are
    factor = _tempered(scene, rows, _centred(lost, weight))[:, None, None]
    kept = 1 + factor * (transfer[:, :, None] * transfer[:, None, :] - 1)
    white = rng.standard_normal(lost.shape, dtype=np.float32) * scene.noise[rows, which, None, None]
    by = cosines.T @ (factor * lost + np.sqrt(np.maximum(1 - kept**2, 0)) * white) @ cosines
    scene.change(rows, which, by)


def _background(scene: _Scene, rows: Rows, spread: float, rng: np.random.Generator) -> None:
    """Sky left in science and reference, each on its own: a constant of the width `spread`, in units of the stamp's noise.

    The difference has none: background is matched when images are subtracted.
    """
    offset = rng.standard_normal((len(rows), 2)).astype(np.float32) * spread * scene.noise[rows]
    scene.stamps[rows, :_DIFFERENCE] += offset[:, :, None, None]


def _gradient(scene: _Scene, rows: Rows, spread: float, rng: np.random.Generator) -> None:
    """A slope of one epoch's sky that no model took out: a plane through zero at the source, `spread` noises at the edge."""
    which = rng.integers(2, size=len(rows))
    angle = rng.uniform(0, 2 * np.pi, len(rows))
    height = rng.standard_normal(len(rows)) * spread * scene.noise[rows, which]
    scene.change(rows, which, (height[:, None, None] * _ramps(angle) / _CENTRE).astype(np.float32))


def _noise(scene: _Scene, rows: Rows, largest: float, rng: np.random.Generator) -> None:
    """White noise in science and reference, each up to `largest` times its own: a brighter sky, a shorter exposure."""
    strength = rng.uniform(0, largest, (2, len(rows))).astype(np.float32)
    for epoch in (0, 1):
        which = np.full(len(rows), epoch)
        by = rng.standard_normal((len(rows), _SIDE, _SIDE), dtype=np.float32)
        scene.change(rows, which, by * (strength[epoch] * scene.noise[rows, epoch])[:, None, None])


def _border(scene: _Scene, rows: Rows, widest: float, rng: np.random.Generator) -> None:
    """The edge of a chip or of a reference: one straight cut, or two at right angles, and nothing measured beyond.

    Half of the cuts run along rows or columns, half at any angle, as the corner of a turned reference. The cut stays
    31.5 - `widest` px away from the source. Beyond it the science, the reference or both are NaN, and always the difference.
    """
    count = len(rows)
    angle = np.where(rng.random(count) < 0.5, rng.integers(4, size=count) * np.pi / 2, rng.uniform(0, 2 * np.pi, count))
    beyond = _cut(angle, widest, rng)
    beyond |= _cut(angle + np.pi / 2, widest, rng) & (rng.random(count) < 0.25)[:, None, None]
    missing = np.array([(True, False, True), (False, True, True), (True, True, True)])[rng.integers(3, size=count)]
    gone = missing[:, :, None, None] & beyond[:, None]
    scene.stamps[rows] = np.where(gone, np.float32(np.nan), scene.stamps[rows])


def _cut(angle: NDArray[np.float64], widest: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Pixels (k, 63, 63) beyond a line across `angle`, drawn between `widest` px inside the nearest edge and the last corner."""
    reach = (_SIDE / 2) * (np.abs(np.cos(angle)) + np.abs(np.sin(angle)))
    distance = rng.uniform(_SIDE / 2 - widest, reach)
    cut: NDArray[np.bool_] = _ramps(angle) > distance[:, None, None]
    return cut


def _ramps(angle: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance in px from the centre along each angle: (k, 63, 63)."""
    along = np.arange(_SIDE) - _CENTRE
    return np.sin(angle)[:, None, None] * along[:, None] + np.cos(angle)[:, None, None] * along


def _tempered(scene: _Scene, rows: Rows, change: Stamps) -> Stamps:
    """Factors (k,) of at most 1 that keep a change of the centre's flux below a fifth of what is there."""
    allowed, size = _KEPT * np.abs(scene.centre(rows)), np.abs(change)
    return np.divide(allowed, size, out=np.ones_like(size), where=size > allowed)


def _centred(images: Stamps, weight: Stamps | None = None) -> Stamps:
    """Weighted flux (k,) of images (k, 63, 63); by the Gaussian of the centre unless a weight is given."""
    flux: Stamps = np.einsum("kyx,yx->k", images, _centre_weight() if weight is None else weight)
    return flux


@cache
def _centre_weight() -> Stamps:
    along = np.exp(-((np.arange(_SIDE) - _CENTRE) ** 2) / (2 * _CORE**2))
    weight: Stamps = np.outer(along, along).astype(np.float32)
    return weight


@cache
def _cosines() -> tuple[Stamps, Stamps]:
    """The orthonormal cosines of a mirrored stamp (DCT-II), (63, 63), and their frequencies in radian a pixel."""
    number = np.arange(_SIDE)
    matrix = np.sqrt(2 / _SIDE) * np.cos(np.pi * number[:, None] * (number + 0.5) / _SIDE)
    matrix[0] /= np.sqrt(2)
    return matrix.astype(np.float32), (np.pi * number / _SIDE).astype(np.float32)


@cache
def _interpolation() -> Stamps:
    """Matrices that shift a mirrored line of 63 px by -1 to 1 px in steps of 1/32: (65, 63, 63)."""
    shifts = np.arange(-_STEPS, _STEPS + 1) / _STEPS
    at = np.arange(_SIDE)
    inside = at[:, None] - at  # output minus input pixel; beyond the first and the last pixel the line is mirrored
    images = (inside, at[:, None] + at + 1, at[:, None] + at + 1 - 2 * _SIDE)
    matrices = np.sum([_windowed_sinc(image - shifts[:, None, None]) for image in images], axis=0)
    unit: Stamps = (matrices / matrices.sum(axis=2, keepdims=True)).astype(np.float32)
    return unit


def _windowed_sinc(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    inside = np.clip(1 - (distance / (_HALF_WIDTH + 1)) ** 2, 0, None)
    return np.sinc(distance) * np.where(inside > 0, np.i0(_SHAPE * np.sqrt(inside)) / np.i0(_SHAPE), 0)


_EFFECTS: tuple[tuple[str, Callable[[_Scene, Rows, float, np.random.Generator], None]], ...] = (
    ("subpixel", _subpixel),
    ("gain", _gain),
    ("blur", _blur),
    ("background", _background),
    ("gradient", _gradient),
    ("noise", _noise),
    ("border", _border),
)
