"""The matched filter whose noise knows that a source shifts as a whole: batches of small windows, by their transforms.

`coherent` has the formulae and chooses the windows. All windows of a batch have one side; correlations wrap around in them, so
what lies within the filter's reach of their border does not count.

A transient pulls the fitted shift of its host, which leaves a false peak on the host's other side. Where a first pass finds a peak,
a second fits the shifts together with a source there, and what is away from the peak is read from it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from astrid.core.records import FloatImage
from astrid.imaging.zogy.kernels import FLOOR, Optics, power, recipe_for, wrapped

Hats = NDArray[np.complex64]

REACH_FWHMS = 1.5  # FWHM of P_D, that the matched filter looks around a pixel
_MOST_SIGMAS = 4.0  # of the prior: largest shift that is taken off beyond first order
_SECOND_ORDER = 0.2  # sigma that the second order must reach for a second round
_LIT_FWHMS = 12.0  # FWHM^2, area of a source's light: its noise is what the template brings in
_FOUND_SNR = 5.0  # of a peak that the shifts leave, to be taken for a source whose light must not pull them
_AWAY_FWHMS = 1.5  # FWHM from that source, beyond which it is taken off
_FREE = 100.0  # times the flux at the peak: prior of that source, wide enough to say nothing
_LEAST_LEFT = np.float32(0.02)  # of the plain filter's variance and response that the shifts leave, for a value to count


@dataclass(frozen=True)
class Look:
    """How a point source looks in D and in the score."""

    fwhm: float  # px, of P_D
    steepest: float  # 1/px, largest slope of a source of unit height in the score
    roughness: float  # standard deviation of the discrete Laplacian of a score of unit noise


@dataclass(frozen=True, eq=False)
class Filters:
    """Transforms on the half plane of one side."""

    side: int
    turn_y: Hats  # (side, 1), 2 pi i f: the derivative
    turn_x: Hats  # (1, side // 2 + 1)
    reference: Hats  # brings R into D
    source: Hats  # a source of unit flux in D, F_D P_D
    match: Hats  # the matched filter, D into PSF flux
    flux_score: float  # F_S
    mixed: NDArray[np.float32]  # of the scene's light, how much is best taken from N; the rest is from R
    noise: NDArray[np.float32]  # of that light, over the power of a star of S/N 1
    edge: NDArray[np.float32]  # (side, side): 1, but falling to 0 at the border, where light that is cut off must not ring


@dataclass(frozen=True, eq=False)
class Batch:
    """Windows, (b, side, side) each, and the n sources a window that shift on their own."""

    difference: FloatImage  # D
    reference: FloatImage  # R
    flux: FloatImage  # alpha of the plain matched filter
    variance: FloatImage  # of `flux`, the pixels' part: V(S) / F_S^2 without V_ast and V_phot
    snr: FloatImage  # (b,), of the brightest source that shifts
    weight: FloatImage  # of a pixel of D in the fit of the shifts; 1 / V(D) where there is light
    shares: FloatImage | None  # (b, n, side, side): each source's share of the light; None = all of it is one source's
    sigma: NDArray[np.float64]  # (b, n, 2): px, of (dx, dy)
    photometry: float  # relative scatter of a source's flux


@lru_cache(maxsize=8)
def look_of(optics: Optics) -> Look:
    """FWHM of P_D, and the steepest slope of what the matched filter makes of a source."""
    psf = recipe_for(optics).psf.astype(np.float64)
    side = 2 * psf.shape[0]
    score = np.fft.irfft2(power(np.fft.rfft2(wrapped(psf, (side, side)))), (side, side))
    slope = np.abs(np.roll(score, -1, axis=1) - np.roll(score, 1, axis=1)).max() / (2.0 * score[0, 0])
    middle = psf.shape[0] // 2
    alike = score / score[0, 0]  # correlation of the score's noise too, as D is white
    rough = 20.0 - 16.0 * (alike[0, 1] + alike[1, 0]) + 4.0 * (alike[1, 1] + alike[1, -1]) + 2.0 * (alike[0, 2] + alike[2, 0])
    profile = (psf[middle, middle:] + psf[middle, middle::-1] + psf[middle:, middle] + psf[middle::-1, middle]) / (4 * psf[middle, middle])
    below = int(np.argmax(profile < 0.5))
    half = below - (0.5 - profile[below]) / (profile[below - 1] - profile[below])
    return Look(2.0 * float(half), float(slope), float(np.sqrt(rough)))


@lru_cache(maxsize=16)
def filters_for(optics: Optics, side: int) -> Filters:
    """The transforms for windows of one even side; PSF stamps that are larger are cut."""
    hats = [np.fft.rfft2(wrapped(_cut(optics.psf(index), side), (side, side))) for index in (0, 1)]
    floor = FLOOR**3 / (FLOOR**2 + power(hats[0]) + power(hats[1]))
    hat_n, hat_r = ((hat + floor) * flux for hat, flux in zip(hats, optics.fluxes, strict=True))
    root = np.sqrt(optics.sigmas[0] ** 2 * power(hat_r) + optics.sigmas[1] ** 2 * power(hat_n))
    source = hat_n * hat_r / root
    flux_score = np.square(np.fft.irfft2(source, (side, side))).sum()
    reference = hat_n / root
    mixed = optics.sigmas[1] ** 2 * power(reference)
    noise = mixed * (1.0 - mixed) * _LIT_FWHMS * look_of(optics).fwhm ** 2 * flux_score / power(source)
    return Filters(
        side=side,
        turn_y=_turns(np.fft.fftfreq(side))[:, None],
        turn_x=_turns(np.fft.rfftfreq(side))[None, :],
        reference=reference.astype(np.complex64),
        source=source.astype(np.complex64),
        match=(np.conj(source) / flux_score).astype(np.complex64),
        flux_score=float(flux_score),
        mixed=mixed.astype(np.float32),
        noise=noise.astype(np.float32),
        edge=_edge(side, REACH_FWHMS * look_of(optics).fwhm),
    )


def _edge(side: int, width: float) -> NDArray[np.float32]:
    depth = np.minimum(np.arange(side) + 0.5, side - 0.5 - np.arange(side)) / width
    ramp = np.square(np.sin(0.5 * np.pi * np.minimum(depth, 1.0)))
    return np.outer(ramp, ramp).astype(np.float32)


def _turns(frequency: NDArray[Any]) -> Hats:
    return np.asarray(np.where(np.abs(frequency) < 0.5, 2j * np.pi * frequency, 0.0), np.complex64)  # Nyquist has no derivative


def _cut(stamp: FloatImage, side: int) -> NDArray[np.float64]:
    middle, half = stamp.shape[0] // 2, min(stamp.shape[0] // 2, (side - 1) // 2)
    window = slice(middle - half, middle + half + 1)
    return stamp[window, window].astype(np.float64)


@dataclass(frozen=True, eq=False)
class _Model:
    """Windows and the k patterns whose amplitudes are fitted in each."""

    data: FloatImage  # D, (b, side, side)
    flux: FloatImage  # alpha of the plain matched filter
    variance: FloatImage
    weight: FloatImage
    hats: Hats  # of the patterns, (b, k, side, side // 2 + 1)
    columns: FloatImage  # the patterns, (b, k, side, side)
    prior: NDArray[np.float64]  # variances of the amplitudes, (b, k)

    @classmethod
    def of(cls, batch: Batch, children: Hats, filters: Filters) -> _Model:
        """To first order in the shifts."""
        hats = _patterns(children, filters, batch.photometry)
        return cls(batch.difference, batch.flux, batch.variance, batch.weight, hats, _inverse(hats, filters), _prior(batch))

    def rows(self, rows: NDArray[np.intp]) -> _Model:
        """Some of the windows."""
        return _Model(*(getattr(self, field.name)[rows] for field in fields(self)))

    def put(self, rows: NDArray[np.intp], other: _Model) -> _Model:
        """With some of the windows replaced."""
        planes = [getattr(self, field.name).copy() for field in fields(self)]
        for plane, field in zip(planes, fields(self), strict=True):
            plane[rows] = getattr(other, field.name)
        return _Model(*planes)

    def moved(self, shift: NDArray[np.float64], children: Hats, batch: Batch, filters: Filters) -> _Model:
        """About sources shifted by `shift` (b, 2 n), whose light beyond first order is taken off; prior and weight stay."""
        phases = _phases(shift, filters)
        still = children / (np.float32(1) + filters.mixed * (phases - np.float32(1)))
        moved = still * phases
        hats = _patterns(moved, filters, batch.photometry)
        beyond = (moved - still).sum(axis=1) - np.einsum("bkyx,bk->byx", hats[:, : shift.shape[1]], shift.astype(np.float32))
        data, flux = self.data - _inverse(beyond, filters), self.flux - _inverse(beyond * filters.match, filters)
        return replace(self, data=data, flux=flux, hats=hats, columns=_inverse(hats, filters))

    def with_source(self, place: NDArray[np.float64], flux: NDArray[np.float64], filters: Filters) -> _Model:
        """With one more pattern: a point source at `place` (b, 2), (x, y) px, of any flux of the order of `flux` (b,)."""
        hat = filters.source * _phases(-place, filters)
        return replace(
            self,
            hats=np.concatenate([self.hats, hat], axis=1),
            columns=np.concatenate([self.columns, _inverse(hat, filters)], axis=1),
            prior=np.concatenate([self.prior, np.square(_FREE * flux)[:, None]], axis=1),
        )

    def fit(self) -> _Fit:
        """The normal equations."""
        weighted = (self.columns * self.weight[:, None]).reshape(*self.prior.shape, -1)
        matrix = (weighted @ self.columns.reshape(weighted.shape).swapaxes(1, 2)).astype(np.float64)
        right = (weighted @ self.data.reshape(len(self.data), -1, 1))[..., 0].astype(np.float64)
        root = np.sqrt(self.prior)
        outer = root[:, :, None] * root[:, None, :]
        posterior = outer * np.linalg.inv(np.eye(self.prior.shape[1]) + outer * matrix)
        return _Fit(posterior, right, np.diagonal(matrix, axis1=1, axis2=2))


@dataclass(frozen=True, eq=False)
class _Fit:
    """The normal equations of the patterns' amplitudes."""

    posterior: NDArray[np.float64]  # B, (b, k, k)
    right: NDArray[np.float64]  # G^T W D, (b, k)
    strength: NDArray[np.float64]  # diagonal of A, (b, k)

    def amplitudes(self, prior: NDArray[np.float64]) -> NDArray[np.float64]:
        """The most probable ones, within bounds; (b, k)."""
        bound = _MOST_SIGMAS * np.sqrt(prior)
        return np.clip((self.posterior @ self.right[..., None])[..., 0], -bound, bound)

    def beyond_first_order(self, shift: NDArray[np.float64], fwhm: float) -> NDArray[np.bool_]:
        """Where the square of a shift times the light's curvature can be seen; (b,)."""
        return np.asarray((np.sqrt(self.strength[:, : shift.shape[1]]) * shift**2).max(axis=1) > _SECOND_ORDER * fwhm)


@dataclass(frozen=True, eq=False)
class Filtered:
    """PSF flux and its error with the shifts taken out, (b, side, side)."""

    flux: FloatImage
    error: FloatImage
    counts: NDArray[np.bool_]  # where the shifts leave enough to tell


def filter_windows(batch: Batch, filters: Filters, fwhm: float) -> Filtered:
    """What the matched filter makes of windows whose sources shift as a whole; `fwhm`, px, of P_D."""
    children = _children(batch, filters)
    model = _Model.of(batch, children, filters)
    fit = model.fit()
    shift = fit.amplitudes(model.prior)[:, : 2 * batch.sigma.shape[1]]
    far = np.flatnonzero(fit.beyond_first_order(shift, fwhm))
    if len(far):
        model = model.put(far, model.rows(far).moved(shift[far], children[far], batch, filters))
        fit = model.fit()
    first = _without_shifts(model, fit, filters)
    top, place = _highest(first, filters)
    found = np.flatnonzero(top > 0)
    if len(found):
        beside = model.rows(found).with_source(place[found], top[found], filters)
        second = _without_shifts(beside, beside.fit(), filters)
        steps = np.arange(filters.side)
        square = np.square(steps - place[found, 1:])[:, :, None] + np.square(steps - place[found, :1])[:, None, :]
        away = square > (_AWAY_FWHMS * fwhm) ** 2
        for field in fields(first):
            plane = getattr(first, field.name)
            plane[found] = np.where(away, getattr(second, field.name), plane[found])
    return first


def _highest(values: Filtered, filters: Filters) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """|flux| of the most significant peak of each window, 0 where none is, and its place (x, y), px to a fraction; (b,), (b, 2)."""
    score = np.where(values.counts & (filters.edge >= 1), np.abs(values.flux) / values.error, np.float32(0))
    window = np.arange(len(score))
    y, x = np.divmod(score.reshape(len(score), -1).argmax(axis=1), filters.side)
    place = np.empty((len(score), 2))
    for axis, (centre, dy, dx) in enumerate(((x, 0, 1), (y, 1, 0))):
        low, middle, high = (score[window, (y + k * dy) % filters.side, (x + k * dx) % filters.side] for k in (-1, 0, 1))
        curved = np.maximum(2 * middle - low - high, np.float32(1e-6))
        place[:, axis] = centre + np.clip(0.5 * (high - low) / curved, -0.5, 0.5)
    return np.where(score[window, y, x] > _FOUND_SNR, np.abs(values.flux[window, y, x]), 0.0).astype(np.float64), place


def _without_shifts(model: _Model, fit: _Fit, filters: Filters) -> Filtered:
    """(flux - c^T a) / r and sqrt(v - c^T B c) / r, with r = 1 - c^T B h; a: the most probable amplitudes.

    c, the patterns as the matched filter sees them, and h, what a source of unit flux adds to G^T W D, are (b, k, side, side).
    """
    shape, flat = model.flux.shape, (*model.prior.shape, -1)
    seen = _inverse(model.hats * filters.match, filters).reshape(flat)
    taken = _forward(model.columns * model.weight[:, None])
    taken *= filters.match
    response_to = (_inverse(taken, filters) * np.float32(filters.flux_score)).reshape(flat)
    amplitude = (fit.posterior @ fit.right[..., None]).astype(np.float32).swapaxes(1, 2)
    flux = model.flux - (amplitude @ seen).reshape(shape)
    mixed = fit.posterior.astype(np.float32) @ seen
    left = model.variance - np.einsum("bkx,bkx->bx", mixed, seen).reshape(shape)
    response = np.float32(1) - np.einsum("bkx,bkx->bx", mixed, response_to).reshape(shape)
    counts = (left > _LEAST_LEFT * model.variance) & (response > _LEAST_LEFT)
    np.maximum(left, _LEAST_LEFT * model.variance, out=left)
    np.maximum(response, np.float32(_LEAST_LEFT), out=response)
    flux /= response
    return Filtered(flux, np.sqrt(left, out=left) / response, counts)


def _children(batch: Batch, filters: Filters) -> Hats:
    """Transforms of each source's light in D, by its share of the scene's; (b, n, side, side // 2 + 1).

    In D, N and R bring the same light with noise powers that add up to 1 at every frequency (D is white): the best mean of the two
    takes `mixed` of N, and a Wiener filter keeps what rises above its noise.
    """
    hats = _forward(batch.reference)
    hats *= filters.reference
    hats += _forward(batch.difference) * filters.mixed
    hats /= np.float32(1) + filters.noise / np.square(batch.snr)[:, None, None]
    if batch.shares is None:
        return hats[:, None]
    light = _inverse(hats, filters)
    light *= filters.edge
    return _forward(batch.shares * light[:, None])


def _prior(batch: Batch) -> NDArray[np.float64]:
    """Variances of the columns: the shifts of each source, then their relative fluxes; (b, k)."""
    prior = batch.sigma.reshape(len(batch.sigma), -1) ** 2
    if batch.photometry > 0:
        prior = np.concatenate([prior, np.full(batch.sigma.shape[:2], batch.photometry**2)], axis=1)
    return prior


def _patterns(children: Hats, filters: Filters, photometry: float) -> Hats:
    """Transforms of dM/dx, dM/dy of each source in turn, then of each one's light if its flux scatters; (b, k, side, side // 2 + 1)."""
    count, sources = children.shape[:2]
    hats = np.empty((count, sources * (3 if photometry > 0 else 2), *children.shape[2:]), np.complex64)
    np.multiply(children, filters.turn_x, out=hats[:, 0 : 2 * sources : 2])
    np.multiply(children, filters.turn_y, out=hats[:, 1 : 2 * sources : 2])
    if photometry > 0:
        hats[:, 2 * sources :] = children
    return hats


def _phases(shift: NDArray[np.float64], filters: Filters) -> Hats:
    """What moves each source by minus (dx, dy); `shift` (b, 2 n)."""
    pairs = shift.astype(np.float32).reshape(len(shift), -1, 2, 1, 1)
    return np.asarray(np.exp(pairs[:, :, 0] * filters.turn_x) * np.exp(pairs[:, :, 1] * filters.turn_y))


def _forward(planes: FloatImage) -> Hats:
    return np.asarray(fft.rfft2(planes))


def _inverse(hats: Hats, filters: Filters) -> FloatImage:
    return np.asarray(fft.irfft2(hats, (filters.side, filters.side)))
