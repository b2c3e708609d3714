"""What a telescope might have done to a triplet: effects on raw stamps, in flux, before they are normalised.

Each effect changes an epoch (science or reference) and puts what the change leaves into the difference, which is science
minus reference times the sign of the candidate, so the three stamps stay one observation. Each keeps what the label says:
the light at the centre of the difference changes by less than a fifth (`_tempered`), noise keeps its strength and
spectrum unless noise is the effect, and masked pixels stay masked.

Every effect draws from a generator of its own: switching one on or off leaves the draws of the others as they were.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrid.config.schema.train import AugmentConfig
from astrid.core.threads import one_thread
from astrid.datasets.normalize import STAMP_SHAPE
from astrid.learning.effect_tables import (
    CENTRE,
    INNER,
    SIDE,
    STEPS,
    WIDE,
    WIDTHS,
    centred,
    gaussians,
    inner_weight,
    interpolation,
    lost_noise,
    places_of_lost,
    places_of_white,
    planes,
    white,
)

Draws = Callable[[str], np.random.Generator]  # the generator of an effect, by its name
Stamps = NDArray[np.float32]
Rows = NDArray[np.intp]

_DIFFERENCE = 2  # channel

_STRIKE = 0.5  # probability of each effect on a triplet that is open to them
_KEPT = 0.2  # largest change of the centre's flux in the difference, relative to it

_LOST = 0.25  # share of masked light above which a shifted pixel is masked
_MISSING = ((0, 2), (1, 2), (0, 1, 2))  # stamps without data beyond a border: science or reference, or both, and always the difference
_CLEAR = 4  # px about the source that a masked neighbour leaves free
_BRIGHT = 30.0  # noises of a pixel, above which a neighbour may pass for saturated
_TOGETHER = 8  # triplets that an effect changes at a time: 127 kB a stamp, in a core's cache and below malloc's mmap threshold


@dataclass(frozen=True)
class Plan:
    """Which triplets of a batch are struck by which effects, and the generators that go on to draw the strengths."""

    count: int  # triplets of the batch
    struck: Mapping[str, NDArray[np.bool_]]  # (count,) by effect, in the order in which the effects come
    generators: Mapping[str, np.random.Generator]

    @property
    def touched(self) -> Rows:
        """Positions within the batch of the triplets that any effect strikes, ascending."""
        return np.flatnonzero(self._any())

    @property
    def untouched(self) -> Rows:
        """Positions of the others, ascending."""
        return np.flatnonzero(~self._any())

    def _any(self) -> NDArray[np.bool_]:
        return np.asarray(np.logical_or.reduce([np.zeros(self.count, dtype=bool), *self.struck.values()]))


@dataclass(frozen=True, eq=False)
class _Scene:
    """The touched triplets, changed in place. A masked pixel holds the background until the end, so it has no light."""

    stamps: Stamps  # (n, 3, 63, 63), finite
    masks: dict[int, NDArray[np.bool_]]  # masked pixels (3, 63, 63) of the triplets that have some
    signs: NDArray[np.integer]  # (n,) of the difference: +1 science minus reference, -1 the other way round
    background: Stamps  # (n, 3) of science and reference, 0 of the difference
    noise: Stamps  # (n, 2) standard deviation a pixel

    def epoch(self, rows: Rows, which: Rows) -> Stamps:
        """One epoch of each row, (k, 3969), a copy; masked pixels hold the background."""
        return self._planes.take(3 * rows + which, axis=0)

    def change(self, rows: Rows, which: Rows, by: Stamps) -> None:
        """Add (k, 3969) to one epoch of each row, and to its difference what that leaves there."""
        planes = self._planes
        leaves = self.signs[rows] * (1 - 2 * which)
        for row, epoch, sign, one in zip(rows.tolist(), which.tolist(), leaves.tolist(), by, strict=True):
            changed, difference = planes[3 * row + epoch], planes[3 * row + _DIFFERENCE]
            np.add(changed, one, out=changed)
            (np.add if sign > 0 else np.subtract)(difference, one, out=difference)

    @property
    def _planes(self) -> Stamps:
        return self.stamps.reshape(-1, SIDE * SIDE)

    def mask(self, row: int) -> NDArray[np.bool_]:
        """The masked pixels of a triplet, to be changed."""
        if row not in self.masks:
            self.masks[row] = np.zeros(STAMP_SHAPE, dtype=bool)
        return self.masks[row]


def plan(cfg: AugmentConfig, count: int, draws: Draws) -> Plan:
    """Draw which of `count` triplets the effects of `cfg` strike: a share `cfg.share` is open to them, each strikes half of those.

    Effects fall together on some triplets and leave the others as they were measured, which need not be read again then.
    """
    active = [name for name, _ in _EFFECTS if getattr(cfg, name) > 0 and cfg.share > 0]
    generators = {name: draws(name) for name in active}
    exposed = draws("share").random(count) < cfg.share if active else np.zeros(count, dtype=bool)
    return Plan(count, {name: exposed & (rng.random(count) < _STRIKE) for name, rng in generators.items()}, generators)


def distort(stamps: Stamps, signs: NDArray[np.integer], measured: tuple[Stamps, Stamps], cfg: AugmentConfig, planned: Plan) -> None:
    """Apply the effects of a plan to the triplets that it touches, in place.

    Parameters
    ----------
    stamps
        float32 (n, 3, 63, 63), not normalised, of the triplets `planned.touched`: science, reference, sign * difference; NaN
        where masked.
    signs
        (n,) of the candidates: +1 brightened, -1 faded.
    measured
        Background and noise of each stamp (`datasets.normalize.levels`), two arrays (n, 3), which are used up.
    """
    scene = _scene(stamps, signs, *measured)
    with one_thread():
        for name, effect in _EFFECTS:
            if name in planned.struck:
                rows = np.flatnonzero(planned.struck[name][planned.touched])
                effect(scene, rows, getattr(cfg, name), planned.generators[name])
    for row, mask in scene.masks.items():
        np.copyto(stamps[row], np.nan, where=mask)


def _groups(rows: Rows, *draws: NDArray[Any]) -> Iterator[tuple[NDArray[Any], ...]]:
    """A few rows at a time, with what was drawn for them."""
    for start in range(0, len(rows), _TOGETHER):
        yield tuple(one[start : start + _TOGETHER] for one in (rows, *draws))


def _scene(stamps: Stamps, signs: NDArray[np.integer], background: Stamps, noise: Stamps) -> _Scene:
    masks = {}
    for row, one in enumerate(stamps):
        measured = np.isfinite(one)
        if not measured.all():
            masks[row] = np.logical_not(measured, out=measured)
            np.copyto(one, background[row, :, None, None], where=masks[row])
    background[:, _DIFFERENCE] = 0
    own = np.where(noise[:, 2:] > 0, np.minimum(noise[:, :2], noise[:, 2:]), noise[:, :2])  # neighbours are no noise
    return _Scene(stamps, masks, signs, background, own)


def _subpixel(scene: _Scene, rows: Rows, largest: float, rng: np.random.Generator) -> None:
    """Shift the three stamps together by up to `largest` px along each axis, mirrored at the edge.

    A sinc in a Kaiser window passes all but the highest frequencies, so noise keeps 0.94 of its standard deviation or more;
    linear interpolation would leave 0.5 at half a pixel, and a network would know shifted stamps by it. What is sharper than
    any PSF (a hit of one pixel) rings, as it does in a resampled reference.
    """
    steps = np.rint(rng.uniform(-largest, largest, (2, len(rows))) * STEPS).astype(np.intp)
    matrices = interpolation()
    half = np.empty(STAMP_SHAPE, dtype=np.float32)
    for row, down, right in zip(rows.tolist(), *(steps + STEPS).tolist(), strict=True):
        np.matmul(scene.stamps[row].reshape(-1, SIDE), matrices[right].T, out=half.reshape(-1, SIDE))
        np.matmul(matrices[down], half, out=scene.stamps[row])
    holed = [place for place, row in enumerate(rows.tolist()) if row in scene.masks]
    if holed:
        moved = _moved_mask(np.array([scene.masks[row] for row in rows[holed].tolist()]), steps[:, holed] / STEPS) > _LOST
        scene.masks.update(zip(rows[holed].tolist(), moved, strict=True))


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
    background = scene.background[rows, which]
    light = centred(scene.stamps[rows, which, INNER, INNER]) - background * inner_weight().sum()
    error *= _tempered(centred(scene.stamps[rows, _DIFFERENCE, INNER, INNER]), error * light)
    for some, epoch, level, by in _groups(rows, which, background[:, None], error[:, None]):
        change = scene.epoch(some, epoch)
        change -= level
        change *= by
        scene.change(some, epoch, change)


def _blur(scene: _Scene, rows: Rows, largest: float, rng: np.random.Generator) -> None:
    """The PSF of one epoch was wider than its model says: a Gaussian of up to `largest` px (sigma) over it.

    Stars, hosts and the source leave rings in the difference. The image counts as mirrored at its edges. Where the blur would
    take too much of the source, a narrower one comes instead; the noise that it takes comes back with the spectrum of what
    is lost, so that its power stays.
    """
    which = rng.integers(2, size=len(rows))
    drawn = np.rint(rng.uniform(0, WIDTHS, len(rows))).astype(np.intp)
    corners = places_of_lost(len(rows), rng)
    matrices, weights = gaussians(largest)
    fields = lost_noise(largest)
    flux = np.einsum("kyj,jy->kj", scene.stamps[rows, which, WIDE, WIDE] @ weights.T, weights)
    allowed = _KEPT * np.abs(centred(scene.stamps[rows, _DIFFERENCE, INNER, INNER]))
    kept = (np.abs(flux - flux[:, :1]) <= allowed[:, None]) & (np.arange(WIDTHS + 1) <= drawn[:, None])
    widths = WIDTHS - kept[:, ::-1].argmax(axis=1)  # the widest one that is left; the first, no blur, always is
    for some, epoch, chosen, corner, strength in _groups(rows, which, widths, corners, scene.noise[rows, which]):
        images = scene.epoch(some, epoch).reshape(-1, SIDE, SIDE)
        change, noise = np.empty_like(images), np.empty_like(images)
        for place, (width, (y, x), size) in enumerate(zip(chosen.tolist(), corner.tolist(), strength, strict=True)):
            np.matmul(matrices[width] @ images[place], matrices[width].T, out=change[place])
            np.multiply(fields[width, y : y + SIDE, x : x + SIDE], size, out=noise[place])
        change -= images
        change += noise
        scene.change(some, epoch, change.reshape(len(some), -1))


def _background(scene: _Scene, rows: Rows, spread: float, rng: np.random.Generator) -> None:
    """Sky left in science and reference, each on its own: a constant of the width `spread`, in units of the stamp's noise.

    The difference has none: background is matched when images are subtracted.
    """
    offset = rng.standard_normal((len(rows), 2)).astype(np.float32) * spread * scene.noise[rows]
    for row, by in zip(rows.tolist(), offset[:, :, None, None], strict=True):
        epochs = scene.stamps[row, :_DIFFERENCE]
        np.add(epochs, by, out=epochs)


def _gradient(scene: _Scene, rows: Rows, spread: float, rng: np.random.Generator) -> None:
    """A slope of one epoch's sky that no model took out: a plane through zero at the source, `spread` noises at the edge."""
    which = rng.integers(2, size=len(rows))
    angle = rng.uniform(0, 2 * np.pi, len(rows))
    height = rng.standard_normal(len(rows)) * spread * scene.noise[rows, which] / CENTRE
    for some, epoch, toward, slope in _groups(rows, which, angle, height):
        scene.change(some, epoch, planes(toward, slope))


def _noise(scene: _Scene, rows: Rows, largest: float, rng: np.random.Generator) -> None:
    """White noise in science and reference, each up to `largest` times its own: a brighter sky, a shorter exposure."""
    strength = rng.uniform(0, largest, (2, len(rows))).astype(np.float32)
    for epoch in (0, 1):
        which = np.full(len(rows), epoch)
        for some, epochs, size, place in _groups(rows, which, strength[epoch] * scene.noise[rows, epoch], places_of_white(len(rows), rng)):
            scene.change(some, epochs, white(size, place))


def _border(scene: _Scene, rows: Rows, widest: float, rng: np.random.Generator) -> None:
    """The edge of a chip or of a reference: one straight cut, or two at right angles, and nothing measured beyond.

    Half of the cuts run along rows or columns, half at any angle, as the corner of a turned reference. The cut stays
    31.5 - `widest` px away from the source. Beyond it the science, the reference or both are NaN, and always the difference.
    """
    count = len(rows)
    angle = np.where(rng.random(count) < 0.5, rng.integers(4, size=count) * np.pi / 2, rng.uniform(0, 2 * np.pi, count))
    first, second = (_reach(angle + turn, widest, rng) for turn in (0.0, np.pi / 2))
    corner = rng.random(count) < 0.25
    missing = rng.integers(len(_MISSING), size=count)
    for some, toward, near, far, two, kind in _groups(rows, angle, first[:, None], second[:, None], corner, missing):
        beyond = planes(toward, np.ones(len(some))) > near
        beyond[two] |= planes(toward[two] + np.pi / 2, np.ones(two.sum())) > far[two]
        for row, pixels, channels in zip(some.tolist(), beyond.reshape(-1, SIDE, SIDE), kind.tolist(), strict=True):
            mask = scene.mask(row)
            for channel in _MISSING[channels]:
                mask[channel] |= pixels


def _cores(scene: _Scene, rows: Rows, largest: float, rng: np.random.Generator) -> None:
    """A bright neighbour has saturated: a square about its peak, up to `largest` px to each side, is NaN in all three stamps.

    The neighbour is the brightest pixel of either epoch that lies so far away that no square reaches within 4 px of the source;
    triplets without one stay as they are.
    """
    half = rng.uniform(0, largest, len(rows))
    near = math.ceil(largest + _CLEAR) - 1  # px to each side of the source
    inside = slice(max(0, CENTRE - near), CENTRE + near + 1)
    for some, reaches in _groups(rows, half):
        light, reference = (scene.epoch(some, np.full(len(some), epoch)) for epoch in (0, 1))
        light -= scene.background[some, 0, None]
        reference -= scene.background[some, 1, None]
        np.maximum(light, reference, out=light)
        light.reshape(-1, SIDE, SIDE)[:, inside, inside] = 0
        brightest = light.argmax(axis=1)
        found = light[np.arange(len(some)), brightest] > _BRIGHT * scene.noise[some].max(axis=1)
        for row, pixel, reach in zip(some[found].tolist(), brightest[found].tolist(), reaches[found].tolist(), strict=True):
            square = tuple(slice(max(0, round(at - reach)), round(at + reach) + 1) for at in divmod(pixel, SIDE))
            scene.mask(row)[:, *square] = True


def _reach(angle: NDArray[np.float64], widest: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Distances in px of lines across `angle`, drawn between `widest` px inside the nearest edge and the last corner."""
    return rng.uniform(SIDE / 2 - widest, (SIDE / 2) * (np.abs(np.cos(angle)) + np.abs(np.sin(angle))))


def _tempered(centre: Stamps, change: Stamps) -> Stamps:
    """Factors (k,) of at most 1 that keep a change of the centre's flux below a fifth of what is there."""
    allowed, size = _KEPT * np.abs(centre), np.abs(change)
    return np.divide(allowed, size, out=np.ones_like(size), where=size > allowed)


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
