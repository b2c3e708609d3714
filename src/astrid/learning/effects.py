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
from astrid.core.runtime import rng_for
from astrid.datasets.normalize import STAMP_SHAPE, levels

Draws = Callable[[str], np.random.Generator]  # the generator of an effect, by its name
Stamps = NDArray[np.float32]
Rows = NDArray[np.intp]

_SIDE = STAMP_SHAPE[1]
_CENTRE = _SIDE // 2
_DIFFERENCE = 2  # channel

_STRIKE = 0.5  # probability of each effect on a triplet that is open to them
_CORE = 1.5  # px, sigma of the Gaussian weight of the centre
_INNER = slice(_CENTRE - 9, _CENTRE + 10)  # px where that weight is above 1e-8
_KEPT = 0.2  # largest change of the centre's flux in the difference, relative to it

_HALF_WIDTH = 14  # px, of the interpolation kernel
_SHAPE = 5.0  # of its Kaiser window
_STEPS = 32  # of a sub-pixel shift, a pixel
_LOST = 0.25  # share of masked light above which a shifted pixel is masked
_CLEAR = 4  # px about the source that a masked neighbour leaves free
_BRIGHT = 30.0  # noises of a pixel, above which a neighbour may pass for saturated
_NORMALS = 2**20  # numbers in the table of white noise: 4 MB


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
    """The touched triplets, changed in place. A masked pixel holds the background until the end, so it has no light."""

    stamps: Stamps  # (n, 3, 63, 63), finite
    masked: NDArray[np.bool_]  # (n, 3, 63, 63)
    holed: NDArray[np.bool_]  # (n,) triplets with masked pixels
    signs: Stamps  # (n,) of the difference: +1 science minus reference, -1 the other way round
    background: Stamps  # (n, 3) of science and reference, 0 of the difference
    noise: Stamps  # (n, 2) standard deviation a pixel

    def epoch(self, rows: Rows, which: Rows) -> Stamps:
        """Light above the background of one epoch of each row, (k, 63, 63); masked pixels have none."""
        light: Stamps = self.stamps[rows, which]
        light -= self.background[rows, which, None, None]
        return light

    def change(self, rows: Rows, which: Rows, by: Stamps) -> None:
        """Add (k, 63, 63) to one epoch of each row, and to its difference what that leaves there; `by` is used up."""
        self.stamps[rows, which] += by
        by *= self.toward(rows, which)[:, None, None]
        self.stamps[rows, _DIFFERENCE] += by

    def toward(self, rows: Rows, which: Rows) -> Stamps:
        """The sign, (k,), with which light of an epoch stands in the difference."""
        return self.signs[rows] * (1 - 2 * which).astype(np.float32)

    def centre(self, rows: Rows) -> Stamps:
        """Flux of the differences within the weight of the centre, (k,)."""
        return _centred(self.stamps[rows, _DIFFERENCE])

    def observed(self) -> Stamps:
        """The stamps with NaN where they are masked."""
        rows = np.flatnonzero(self.holed)
        holed = self.stamps[rows]
        holed[self.masked[rows]] = np.nan
        self.stamps[rows] = holed
        return self.stamps


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
    scene = _scene(stamps, signs)
    for name, effect in _EFFECTS:
        if name in planned.struck:
            rows = np.flatnonzero(planned.struck[name][planned.touched])
            effect(scene, rows, getattr(cfg, name), planned.generators[name])
    return scene.observed()


def _scene(stamps: Stamps, signs: NDArray[np.integer]) -> _Scene:
    out = stamps.copy()
    masked = ~np.isfinite(out)
    holed = np.asarray(masked.any(axis=(1, 2, 3)))
    background, noise = levels(out)
    background[:, _DIFFERENCE] = 0
    own = np.where(noise[:, 2:] > 0, np.minimum(noise[:, :2], noise[:, 2:]), noise[:, :2])  # neighbours are no noise
    for row in np.flatnonzero(holed):
        for channel in range(STAMP_SHAPE[0]):
            out[row, channel][masked[row, channel]] = background[row, channel]
    return _Scene(out, masked, holed, signs.astype(np.float32), background, own)


def _subpixel(scene: _Scene, rows: Rows, largest: float, rng: np.random.Generator) -> None:
    """Shift the three stamps together by up to `largest` px along each axis, mirrored at the edge.

    A sinc in a Kaiser window passes all but the highest frequencies, so noise keeps 0.94 of its standard deviation or more;
    linear interpolation would leave 0.5 at half a pixel, and a network would know shifted stamps by it. What is sharper than
    any PSF (a hit of one pixel) rings, as it does in a resampled reference.
    """
    steps = np.rint(rng.uniform(-largest, largest, (2, len(rows))) * _STEPS).astype(np.intp)
    down, right = _interpolation()[steps + _STEPS]
    background = scene.background[rows][:, :, None, None]
    moved = down[:, None] @ (scene.stamps[rows] - background) @ right[:, None].swapaxes(-1, -2)
    moved += background
    scene.stamps[rows] = moved
    holed = np.flatnonzero(scene.holed[rows])
    if len(holed):
        scene.masked[rows[holed]] = _moved_mask(scene.masked[rows[holed]], steps[:, holed] / _STEPS) > _LOST


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
    error *= _tempered(scene, rows, error * _centred(light))
    light *= error[:, None, None]
    scene.change(rows, which, light)


def _blur(scene: _Scene, rows: Rows, largest: float, rng: np.random.Generator) -> None:
    """The PSF of one epoch was wider than its model says: a Gaussian of up to `largest` px (sigma) over it.

    Stars, hosts and the source leave rings in the difference. The blur is a product with K in the space of cosines
    (a mirrored image); the noise that it takes comes back as white noise times sqrt(1 - K^2), so that its power stays.
    """
    which = rng.integers(2, size=len(rows))
    sigma = rng.uniform(0, largest, len(rows)).astype(np.float32)
    cosines, frequency = _cosines()
    change = cosines @ scene.epoch(rows, which) @ cosines.T
    transfer = np.exp(-(sigma[:, None] ** 2) * frequency**2 / 2)
    less = transfer[:, :, None] * transfer[:, None, :]
    less -= 1
    change *= less
    factor = _tempered(scene, rows, np.einsum("kyx,yx->k", change, _cosine_weight()))[:, None, None]
    change *= factor
    less *= factor
    power = -less * (2 + less)  # 1 - (1 + less)^2
    white = _white(len(rows), rng)
    white *= np.sqrt(np.maximum(power, 0, out=power), out=power)
    white *= scene.noise[rows, which, None, None]
    change += white
    by = np.asarray(cosines.T @ change @ cosines, dtype=np.float32)
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
    height = rng.standard_normal(len(rows)) * spread * scene.noise[rows, which] / _CENTRE
    scene.change(rows, which, _planes(angle, height))


def _noise(scene: _Scene, rows: Rows, largest: float, rng: np.random.Generator) -> None:
    """White noise in science and reference, each up to `largest` times its own: a brighter sky, a shorter exposure."""
    strength = rng.uniform(0, largest, (2, len(rows))).astype(np.float32)
    for epoch in (0, 1):
        which = np.full(len(rows), epoch)
        by = _white(len(rows), rng)
        by *= (strength[epoch] * scene.noise[rows, epoch])[:, None, None]
        scene.change(rows, which, by)


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
    scene.masked[rows] |= missing[:, :, None, None] & beyond[:, None]
    scene.holed[rows] = True


def _cores(scene: _Scene, rows: Rows, largest: float, rng: np.random.Generator) -> None:
    """A bright neighbour has saturated: a square about its peak, up to `largest` px to each side, is NaN in all three stamps.

    The neighbour is the brightest pixel of either epoch that lies so far away that no square reaches within 4 px of the source;
    triplets without one stay as they are.
    """
    half = rng.uniform(0, largest, len(rows))
    distance = np.abs(np.arange(_SIDE) - _CENTRE)
    near = np.maximum(distance[:, None], distance) < largest + _CLEAR
    for row, reach in zip(rows, half, strict=True):
        light = (scene.stamps[row, :_DIFFERENCE] - scene.background[row, :_DIFFERENCE, None, None]).max(axis=0)
        light[near] = 0
        y, x = np.unravel_index(int(light.argmax()), light.shape)
        if light[y, x] > _BRIGHT * scene.noise[row].max():
            square = tuple(slice(max(0, round(at - reach)), round(at + reach) + 1) for at in (y, x))
            scene.masked[row, :, *square] = True
            scene.holed[row] = True


def _cut(angle: NDArray[np.float64], widest: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Pixels (k, 63, 63) beyond a line across `angle`, drawn between `widest` px inside the nearest edge and the last corner."""
    reach = (_SIDE / 2) * (np.abs(np.cos(angle)) + np.abs(np.sin(angle)))
    distance = rng.uniform(_SIDE / 2 - widest, reach)
    cut: NDArray[np.bool_] = _planes(angle, np.ones(len(angle))) > distance.astype(np.float32)[:, None, None]
    return cut


def _planes(angle: NDArray[np.float64], slope: NDArray[np.float64]) -> Stamps:
    """The slope times the distance in px from the centre along each angle: (k, 63, 63)."""
    along = np.arange(_SIDE) - _CENTRE
    down, right = ((slope * part)[:, None] * along for part in (np.sin(angle), np.cos(angle)))
    planes: Stamps = down.astype(np.float32)[:, :, None] + right.astype(np.float32)[:, None, :]
    return planes


def _white(count: int, rng: np.random.Generator) -> Stamps:
    """White Gaussian noise of unit strength, (count, 63, 63), cut out of a fixed table at places drawn anew each time.

    Within an image all numbers are independent. Two images share some of theirs, displaced, in 1 of 130 cases, and a billion
    triplets see the same million numbers in ever other places: right for augmentation, wrong for measuring tails beyond 5
    sigma. A number costs a hundredth of a drawn one.
    """
    windows = np.lib.stride_tricks.sliding_window_view(_normals(), _SIDE * _SIDE)
    drawn: Stamps = windows[rng.integers(len(windows), size=count)].reshape(count, _SIDE, _SIDE)
    return drawn


@cache
def _normals() -> Stamps:
    return rng_for(0, "learning", "effects", "normals").standard_normal(_NORMALS, dtype=np.float32)


def _tempered(scene: _Scene, rows: Rows, change: Stamps) -> Stamps:
    """Factors (k,) of at most 1 that keep a change of the centre's flux below a fifth of what is there."""
    allowed, size = _KEPT * np.abs(scene.centre(rows)), np.abs(change)
    return np.divide(allowed, size, out=np.ones_like(size), where=size > allowed)


def _centred(images: Stamps) -> Stamps:
    """Flux (k,) of images (k, 63, 63) within the Gaussian of the centre."""
    flux: Stamps = np.einsum("kyx,yx->k", images[:, _INNER, _INNER], _centre_weight()[_INNER, _INNER])
    return flux


@cache
def _centre_weight() -> Stamps:
    along = np.exp(-((np.arange(_SIDE) - _CENTRE) ** 2) / (2 * _CORE**2))
    weight: Stamps = np.outer(along, along).astype(np.float32)
    return weight


@cache
def _cosine_weight() -> Stamps:
    """The weight of the centre in the space of cosines, (63, 63): they are orthonormal, sums of products stay as they are."""
    cosines, _ = _cosines()
    return np.asarray(cosines @ _centre_weight() @ cosines.T, dtype=np.float32)


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
    ("cores", _cores),
)
