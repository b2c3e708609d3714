"""The peers that the package registry offers, on the same pair in the same run: CPU time, memory, and quality by the same judge."""

from __future__ import annotations

import dataclasses
from functools import lru_cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from astrid.core.records import Difference, Psf
from benchmarks.field import FWHM, JITTER_PX, Pair, make_pair, psf_stamp, textbook_sides
from benchmarks.measure import Options, Row, Table, cpu_seconds, eight_ffts
from benchmarks.outcome import Outcome, judge, subtract, width
from benchmarks.peers.runner import Answer, Peer, run_peer
from benchmarks.tables.alignment import catalogues, mapping_error
from benchmarks.textbook import zogy

SUBTRACTIONS = {
    "AstrID": "AstrID, whole pair with own PSFs",
    "textbook": "textbook ZOGY, true PSFs, score alone",
    "sfft": "sfft (numpy, fits a kernel)",
    "ois": "ois (Bramich kernel)",
    "properimage": "properimage (ZOGY)",
}
MAPPINGS = ("astroalign", "tweakwcs", "spalipy")
NOT_OFFERED = {
    "hotpants": "the package registry does not offer it",
    "PyZOGY": "the package registry does not offer it",
    "ZOGY (pmvreeswijk)": "the package registry does not offer it",
    "SWarp": "the package registry does not offer it",
}
_MAD = 1.4826


def run(options: Options) -> Table:
    rows = _subtractions(options) + _mappings(options)
    rows += [Row(f"{name}", float("nan"), note=f"not run: {why}") for name, why in NOT_OFFERED.items()]
    return Table(f"Peers of the package registry, {options.side}^2", rows)


# --- subtraction --------------------------------------------------------------------------------------------------------------


def _subtractions(options: Options) -> list[Row]:
    shape = (options.side, options.side)
    floor_work = eight_ffts(shape)
    floor = float(np.median([cpu_seconds(floor_work) for _ in range(options.repeats)]))
    rows = []
    for name, words in {
        "AstrID": "AstrID, whole pair with own PSFs",
        "textbook": "textbook ZOGY, true PSFs, score alone",
        **SUBTRACTIONS,
    }.items():
        results = {jitter: _result(name, jitter, options) for jitter in (0.0, JITTER_PX)}
        still, moved = results[0.0], results[JITTER_PX]
        if isinstance(still, str) or isinstance(moved, str):
            rows.append(Row(words, float("nan"), note=f"not run: {still if isinstance(still, str) else moved}"))
            continue
        rows.append(Row(words, still.seconds / floor, "x 8 FFT", note=_sentence(still, moved)))
    return rows


@lru_cache(maxsize=2)
def _pair(jitter: float, side: int) -> Pair:
    return make_pair(0, (side, side), jitter=jitter)


def _result(name: str, jitter: float, options: Options) -> Outcome | str:
    """The pair through one tool."""
    pair = _pair(jitter, options.side)
    if name == "AstrID":
        made: list[Difference] = []
        seconds = cpu_seconds(lambda: made.append(subtract(*pair.calibrated(known=False))))
        return judge(pair, made[0], seconds)
    if name == "textbook":
        found: list[NDArray[np.float32]] = []
        sides = textbook_sides(pair)
        seconds = cpu_seconds(lambda: found.append(zogy(*sides, jitter)[0]))
        return judge(pair, as_difference(pair, found[0]), seconds)
    arrays = {"science": pair.science.astype(np.float32), "reference": pair.reference.astype(np.float32)}
    answer = run_peer(Peer(name, "subtraction"), arrays, options)
    if isinstance(answer, str):
        return answer
    outcome = judge(pair, as_difference(pair, _score(answer, pair)), answer.seconds)
    return dataclasses.replace(outcome, quality={"peak_gb": answer.peak_gb, "version": answer.version})


def _score(answer: Answer, pair: Pair) -> NDArray[np.float32]:
    """A peer's own score, or its difference through the science PSF over the noise that both variances leave; blank sky has unit width."""
    if "score" in answer.arrays:
        score = np.nan_to_num(answer.arrays["score"].astype(np.float64))
    else:
        stamp = psf_stamp(FWHM[0]).astype(np.float64)
        difference = np.nan_to_num(answer.arrays["difference"].astype(np.float64))
        variance = signal.oaconvolve(pair.variance_science + pair.variance_reference, stamp**2, mode="same")
        score = signal.oaconvolve(difference, stamp[::-1, ::-1], mode="same") / np.sqrt(np.maximum(variance, 1e-3))
    blank = score[pair.blank < 1.05]
    score = score / (_MAD * np.median(np.abs(blank - np.median(blank))))
    return np.asarray(score, dtype=np.float32)


def as_difference(pair: Pair, score: NDArray[np.float32]) -> Difference:
    """A bare score in the form that the judge reads; the border of 8 px, where tools differ in habit, holds no score."""
    plane = np.zeros_like(score)
    plane[8:-8, 8:-8] = score[8:-8, 8:-8]
    ones, psf = np.ones_like(score), Psf(psf_stamp(FWHM[0]), "given", fwhm=FWHM[0])
    science, reference = pair.calibrated(known=True)
    return Difference(
        science=science.data, reference=reference.data, difference=plane, score=plane, flux=plane, flux_err=ones, dq=science.dq,
        psf_science=psf, psf_reference=psf, psf_difference=psf, wcs=pair.wcs, info=science.info, reference_info=reference.info,
    )  # fmt: skip


def _sentence(still: Outcome, moved: Outcome) -> str:
    def false(run: Outcome) -> str:
        return f"{run.false[0] / run.megapixels:.1f} / {run.false[1] / run.megapixels:.1f}"

    hosts = f"{int((moved.found & moved.hosted).sum())} of {moved.expected[moved.hosted].sum():.0f}"
    memory = f"{still.quality['peak_gb']:.1f} GB, " if "peak_gb" in still.quality else ""
    version = f", version {still.quality['version']}" if "version" in still.quality else ""
    return (
        f"{still.seconds:.2f} s CPU, {memory}std {width(still.blocks['blank']):.3f} blank, {width(still.blocks['near']):.2f} near sources; "
        f"found {int(still.found.sum())} of {still.expected.sum():.0f}; false +/- a Mpx {false(still)}; "
        f"stars' score {np.median(still.stars):.1f} median, {still.stars.max():.0f} largest; "
        f"jitter: false {false(moved)}, found {int(moved.found.sum())} (hosts {hosts}){version}"
    )


# --- mapping ------------------------------------------------------------------------------------------------------------------


def _mappings(options: Options) -> list[Row]:
    """Affine mappings from the same star lists; the error is over the image as for AstrID's."""
    shape = (2048, 2048)
    rows = []
    for name in MAPPINGS:
        errors, seconds, reason = [], [], ""
        for seed in range(2 if options.quick else 5):
            science, reference, wcs, stated, true = catalogues(seed, shape)
            gy, gx = np.meshgrid(np.linspace(0, shape[0] - 1, 21), np.linspace(0, shape[1] - 1, 21), indexing="ij")
            hx, hy = stated.all_world2pix(*wcs.all_pix2world(science.x, science.y, 0), 0)
            arrays = {"sx": science.x, "sy": science.y, "rx": reference.x, "ry": reference.y, "hx": hx, "hy": hy, "flux": science.flux}
            answer = run_peer(Peer(name, "mapping"), {**arrays, "gx": gx.ravel(), "gy": gy.ravel()}, options, side=shape[0])
            if isinstance(answer, str):
                reason = answer
                break
            errors.append(mapping_error(partial(_apply, answer.arrays), wcs, true, shape))
            seconds.append(answer.seconds)
        if reason:
            rows.append(Row(f"mapping error: {name}", float("nan"), note=f"not run: {reason}"))
        else:
            rms = float(np.sqrt(np.mean(np.square(errors))))
            rows.append(Row(f"mapping error: {name}", rms, "mpx", note=f"{np.median(seconds):.3f} s CPU, {len(errors)} seeds"))
    rows.append(_image_registration(options))
    return rows


def _apply(found: dict[str, Any], x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if "mapped" in found:
        return found["mapped"][:, 0], found["mapped"][:, 1]
    matrix = found["matrix"]
    return matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2], matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2]


def _image_registration(options: Options) -> Row:
    """One shift from two images: it knows no turn, so that it is given none."""
    side, shift = 512, (3.37, -2.64)
    pair = make_pair(0, (side, side), shift=shift, injected=0)
    answer = run_peer(Peer("image-registration", "mapping"), {"science": pair.science, "reference": pair.reference}, options)
    if isinstance(answer, str):
        return Row("shift error: image-registration", float("nan"), note=f"not run: {answer}")
    found = np.abs(answer.arrays["shift"])
    error = 1000 * float(np.hypot(found[0] - abs(shift[0]), found[1] - abs(shift[1])))
    return Row("shift error: image-registration", error, "mpx", note=f"{answer.seconds:.2f} s CPU; a shift alone, {side}^2 images")
