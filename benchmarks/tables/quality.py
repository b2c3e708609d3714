"""Subtraction: width of the score, completeness, false peaks and fluxes against theory, seeds varied."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import special

from benchmarks.field import JITTER_PX
from benchmarks.measure import Options, Row, Table, bootstrap, poisson
from benchmarks.outcome import MODES, Outcome, outcome, width

TURN = 0.5  # deg, of a reference that must be resampled
FALSE_LIMIT = 0.5  # a megapixel and sign
CHI2_MARGIN, BIAS_LIMIT = 0.1, 0.005
MARGINS = {"blank": 0.01, "near": 0.03}
RESAMPLED_MARGIN = 0.02


def run(options: Options) -> Table:
    rows: list[Row] = []
    curves: dict[str, dict[str, list[float]]] = {}
    seeds = range(options.seeds)
    for mode, words in MODES.items():
        still = [outcome(mode, seed, options.side) for seed in seeds]
        rows += widths(still, words) + completeness(still, words) + false_peaks(still, words) + fluxes(still, words)
        curves[f"completeness, {words}"] = completeness_curve(still)
    moved = [outcome("own", seed, options.side, JITTER_PX) for seed in seeds]
    words = f"{MODES['own']}, jitter {JITTER_PX} px"
    rows += widths(moved, words, targets=False) + false_peaks(moved, words) + fluxes(moved, words, targets=False)
    rows += bright_stars(moved, words)
    turned = [outcome("own", seed, options.side, 0.0, TURN) for seed in seeds]
    words = f"{MODES['own']}, reference turned {TURN} deg and shifted"
    rows += widths(turned, words, margin=RESAMPLED_MARGIN) + completeness(turned, words)
    rows += false_peaks(turned, words) + fluxes(turned, words)
    return Table(f"Subtraction: quality, {options.seeds} seeds of {options.side}^2", rows, curves)


def widths(runs: list[Outcome], words: str, *, targets: bool = True, margin: float | None = None) -> list[Row]:
    """std of S_corr; the interval is a bootstrap over blocks of 64 px."""
    rows = []
    for region, limit in MARGINS.items():
        limit = margin if margin and region == "blank" else limit
        value, low, high = bootstrap(width, np.concatenate([run.blocks[region] for run in runs]))
        note = ""
        if region == "near":
            note = f"cores {width(np.concatenate([run.blocks['core'] for run in runs])):.3f}"
        elif any(run.quality.get("q_score_renormalised") for run in runs):
            note = f"renormalised; raw {np.mean([run.quality['q_score_std_raw'] for run in runs]):.3f}"
        place = {"blank": "blank sky", "near": "near sources"}[region]
        good = abs(value - 1) <= limit if targets else None
        rows.append(Row(f"std of S_corr, {place}: {words}", value, "", low, high, f"1.00 +- {limit}" if targets else "", good, note))
    return rows


def completeness(runs: list[Outcome], words: str) -> list[Row]:
    """Found over the sum of Phi(S/N - 5), and over that of a peak whose place is free, in units of the binomial sigma.

    The second is there to explain the first, and has no aim of its own.
    """
    found = sum(int((run.found & run.usable).sum()) for run in runs)
    fixed = np.concatenate([run.expected[run.usable] for run in runs])
    free = chance_of_a_peak(np.concatenate([run.snr[run.usable] for run in runs]))
    rows = []
    for name, chance in (("completeness over theory", fixed), ("completeness over theory, place free", free)):
        expected, sigma = float(chance.sum()), float(np.sqrt((chance * (1 - chance)).sum()))
        z = (found - expected) / sigma
        note = f"found {found} of {expected:.1f} +- {sigma:.1f} ({z:+.1f} sigma)"
        interval = (found - sigma) / expected, (found + sigma) / expected
        aim = ("within 1 sigma", z >= -1) if chance is fixed else ("", None)
        rows.append(Row(f"{name}: {words}", found / expected, "", *interval, *aim, note))
    return rows


def chance_of_a_peak(snr: NDArray[np.float64], threshold: float = 5.0) -> NDArray[np.float64]:
    """Probability that the score's maximum about sources of S/N `snr` passes the threshold.

    Where the place is fitted with the flux, the square of the maximum exceeds that at the true place by a chi^2 of two degrees of
    freedom q, so it is the mean of Phi(snr - sqrt(threshold^2 - q)) over q; Phi(snr - threshold) alone is too low by 1 / snr sigma.
    """
    q = np.linspace(0.0, threshold**2, 4001)[:-1]
    density = 0.5 * np.exp(-q / 2)
    chance = np.trapezoid(density * special.ndtr(snr[:, None] - np.sqrt(threshold**2 - q)), q, axis=1)
    return np.asarray(chance + np.exp(-(threshold**2) / 2))


def completeness_curve(runs: list[Outcome]) -> dict[str, list[float]]:
    """Fraction found by S/N, and theory."""
    edges = np.array([3, 4, 5, 6, 7, 9, 12, 20, 30.0])
    snr, found, expected = (np.concatenate([getattr(run, name)[run.usable] for run in runs]) for name in ("snr", "found", "expected"))
    which = np.digitize(snr, edges) - 1
    bins = [k for k in range(len(edges) - 1) if (which == k).any()]
    return {
        "snr": [float(snr[which == k].mean()) for k in bins],
        "found": [float(found[which == k].mean()) for k in bins],
        "theory": [float(expected[which == k].mean()) for k in bins],
        "n": [float((which == k).sum()) for k in bins],
    }


def false_peaks(runs: list[Outcome], words: str) -> list[Row]:
    area = sum(run.megapixels for run in runs)
    rows = []
    for index, sign in enumerate(("positive", "negative")):
        count = sum(run.false[index] for run in runs)
        rate, low, high = poisson(count, area)
        note = f"{count} in {area:.1f} Mpx; theory about 0.35"
        name = f"false {sign} peaks a megapixel: {words}"
        rows.append(Row(name, rate, "/Mpx", low, high, f"<= {FALSE_LIMIT}", rate <= FALSE_LIMIT, note))
    return rows


def fluxes(runs: list[Outcome], words: str, *, targets: bool = True) -> list[Row]:
    """chi^2 a source and bias of the PSF flux at the injected positions, whether found or not."""
    samples = flux_samples(runs)
    chi2 = bootstrap(_chi2, samples)
    bias = bootstrap(_bias, samples)
    free = flux_samples(runs, hosts=False)
    good = (abs(chi2[0] - 1) <= CHI2_MARGIN, abs(bias[0]) <= BIAS_LIMIT) if targets else (None, None)
    aims = (f"1.0 +- {CHI2_MARGIN}", f"|.| <= {100 * BIAS_LIMIT:g} %") if targets else ("", "")
    note = f"{len(samples)} sources; without hosts chi^2 {_chi2(free):.3f}, bias {100 * _bias(free):+.2f} %"
    ratio = float(np.median(np.concatenate([(run.error * run.snr / run.flux)[run.usable] for run in runs])))
    return [
        Row(f"stated error of the flux over theory's: {words}", ratio),
        Row(f"chi^2 a source of injected fluxes: {words}", *_first(chi2), aims[0], good[0], note),
        Row(f"bias of injected fluxes: {words}", 100 * bias[0], "%", 100 * bias[1], 100 * bias[2], aims[1], good[1]),
    ]


def _first(values: tuple[float, float, float]) -> tuple[float, str, float, float]:
    return values[0], "", values[1], values[2]


def flux_samples(runs: list[Outcome], *, hosts: bool = True) -> NDArray[np.float64]:
    """(n, 3) truth, measured, error."""
    parts = []
    for run in runs:
        use = run.usable & np.isfinite(run.error) & (hosts | ~run.hosted)
        parts.append(np.c_[run.flux, run.measured, run.error][use])
    return np.concatenate(parts)


def _chi2(samples: NDArray[np.float64]) -> float:
    return float(np.mean(((samples[:, 1] - samples[:, 0]) / samples[:, 2]) ** 2))


def _bias(samples: NDArray[np.float64]) -> float:
    truth, measured, error = samples.T
    return float(np.sum(truth * measured / error**2) / np.sum(truth**2 / error**2) - 1)


def bright_stars(runs: list[Outcome], words: str) -> list[Row]:
    score = np.concatenate([run.stars for run in runs])
    value, low, high = bootstrap(lambda s: float(np.median(s)), score)
    note = f"largest {score.max():.1f} of {len(score)}"
    return [Row(f"median |score| at stars of S/N > 100: {words}", value, "sigma", low, high, note=note)]
