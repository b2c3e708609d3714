"""PSF estimation: what the estimated stamp is worth against the true one, and its CPU time, beside photutils and piff."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrid.core.records import Calibrated
from astrid.imaging.stars.find import find_stars
from astrid.imaging.stars.psf import estimate_psf
from benchmarks.field import FWHM, make_pair, psf_stamp
from benchmarks.measure import Options, Row, Table, bootstrap, cpu_seconds, eight_ffts, imaging_config
from benchmarks.peers.runner import Peer, run_peer

HALF = 12  # px, of the stamps that are compared
PHOTUTILS_STARS, PHOTUTILS_HALF = 60, 12  # the builder takes minutes for more
SHAPE = (1024, 1024)


def run(options: Options) -> Table:
    """Each estimator on the science image of the test pair: bias of PSF fluxes, RMS residual over the peak, CPU seconds."""
    rows: list[Row] = []
    figures: dict[str, list[list[float]]] = {}
    reasons: dict[str, str] = {}
    for seed in range(options.seeds):
        for index, name in enumerate(("science", "reference")):
            image = make_pair(seed, SHAPE).calibrated(known=False)[index]
            _add(figures, f"AstrID, FWHM {FWHM[index]} px", _ours(image), index)
            if seed < 1 + 2 * (not options.quick):
                _add(figures, f"photutils EPSFBuilder, FWHM {FWHM[index]} px", _photutils(image), index)
                got = _piff(image, options, name)
                if isinstance(got, str):
                    reasons[f"piff, FWHM {FWHM[index]} px"] = got
                else:
                    _add(figures, f"piff PixelGrid, FWHM {FWHM[index]} px", got, index)
    floor_work = eight_ffts(SHAPE)
    floor = min(cpu_seconds(floor_work) for _ in range(5))
    for name, values in figures.items():
        table = np.array(values)
        bias = bootstrap(lambda b: float(np.sqrt(np.mean(b**2))), table[:, 0])
        seconds = float(np.median(table[:, 2]))
        note = f"{seconds:.2f} s CPU, {seconds / floor:.0f} x 8 FFT; residual {1e3 * np.mean(table[:, 1]):.2f} e-3 of the peak, "
        note += f"RMS over 25 px; {table[:, 3].mean():.0f} stars, {len(table)} runs"
        rows.append(Row(f"flux bias of the PSF, RMS: {name}", 100 * bias[0], "%", 100 * bias[1], 100 * bias[2], note=note))
    rows += [Row(f"flux bias of the PSF, RMS: {name}", float("nan"), note=f"not measured: {why}") for name, why in reasons.items()]
    return Table(f"PSF estimation, {SHAPE[0]}^2", rows)


Estimate = tuple[NDArray[np.float64], float, int]  # stamp, CPU seconds, stars


def _add(figures: dict[str, list[list[float]]], name: str, estimate: Estimate, index: int) -> None:
    stamp, seconds, stars = estimate
    truth = psf_stamp(FWHM[index], HALF).astype(float)
    truth *= psf_stamp(FWHM[index], 31)[31 - HALF : 32 + HALF, 31 - HALF : 32 + HALF].sum()
    bias = float(np.sum(stamp * truth) / np.sum(truth**2) - 1.0)  # of a PSF flux: sum(P model) / sum(model^2) to first order
    residual = float(np.sqrt(np.mean((stamp - truth) ** 2)) / truth.max())
    figures.setdefault(name, []).append([bias, residual, seconds, float(stars)])


def _ours(image: Calibrated) -> Estimate:
    config = imaging_config().difference.psf
    made: list[Any] = []
    seconds = cpu_seconds(lambda: made.append(estimate_psf(image.data, image.variance, image.dq, config)))
    psf = made[0].at((SHAPE[1] - 1) / 2, (SHAPE[0] - 1) / 2)
    return _cut(psf.stamp.astype(float)), seconds, int(psf.n_stars)


def _cut(stamp: NDArray[np.float64]) -> NDArray[np.float64]:
    """The inner stamp; a smaller one is padded with zeros."""
    half = stamp.shape[0] // 2
    if half < HALF:
        return np.pad(stamp, HALF - half)
    return stamp[half - HALF : half + HALF + 1, half - HALF : half + HALF + 1]


def clean_stars(image: Calibrated, number: int) -> NDArray[Any]:
    """The brightest stars that AstrID's finder calls clean, isolated by 25 px: what the peers are given."""
    found = find_stars(image.data, image.variance, image.dq, imaging_config().difference.psf.stars)
    places = np.c_[found["x"], found["y"]]
    stars = []
    for row in np.argsort(-found["flux"]):
        inside = min(places[row].min(), *(np.array(SHAPE[::-1]) - places[row])) > 30
        near = np.hypot(*(places - places[row]).T)
        if found["flags"][row] == 0 and inside and not ((near > 0) & (near < 25) & (found["flux"] > 0.02 * found["flux"][row])).any():
            stars.append(row)
    return found[stars[:number]]


def _photutils(image: Calibrated) -> Estimate:
    from astropy.nddata import NDData
    from astropy.table import Table as AstropyTable
    from photutils.psf import EPSFBuilder, extract_stars

    stars = clean_stars(image, PHOTUTILS_STARS)
    made: list[Any] = []

    def build() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cutouts = extract_stars(
                NDData(image.data.astype(float)), AstropyTable({"x": stars["x"], "y": stars["y"]}), size=2 * PHOTUTILS_HALF + 1
            )
            epsf, _ = EPSFBuilder(oversampling=4, maxiters=5, progress_bar=False)(cutouts)
            y, x = np.mgrid[-HALF : HALF + 1, -HALF : HALF + 1]
            made.append(epsf.evaluate(x.astype(float), y.astype(float), 1.0, 0.0, 0.0))

    seconds = cpu_seconds(build)
    stamp = np.asarray(made[0], float)
    return stamp / stamp.sum() * psf_stamp(FWHM[0], 31)[31 - HALF : 32 + HALF, 31 - HALF : 32 + HALF].sum(), seconds, len(stars)


def _piff(image: Calibrated, options: Options, name: str) -> Estimate | str:
    stars = clean_stars(image, PHOTUTILS_STARS)
    arrays = {"data": image.data, "variance": image.variance, "x": stars["x"].astype(float), "y": stars["y"].astype(float)}
    got = run_peer(Peer("piff", "psf"), arrays, options, half=HALF)
    if isinstance(got, str):
        return got
    stamp = np.asarray(got.arrays["stamp"], float)
    return stamp / stamp.sum() * psf_stamp(FWHM[0], 31)[31 - HALF : 32 + HALF, 31 - HALF : 32 + HALF].sum(), got.seconds, len(stars)
