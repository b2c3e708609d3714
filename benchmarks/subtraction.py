"""Subtraction: CPU time as ratios to eight bare FFTs of the same run, and quality against the matched filter's theory.

    python benchmarks/subtraction.py [--sizes 1024 2048]

The field: Moffat PSFs (beta 3.5) of FWHM 3.0 and 2.2 px, 360 stars a megapixel, 100 injected point sources a megapixel of
matched-filter S/N 3 to 30; once as it is and once with 0.1 px RMS of random displacement a star ("jitter").

Columns: 8 FFTs, CPU seconds; ZOGY over them with its kernels at hand and with their set-up; the whole pair (stars, PSFs,
registration, resampling, subtraction), CPU seconds; std of the score on blank sky before any renormalisation; sources found
above 5 sigma, and as many as theory expects; false peaks above 5 sigma of either sign; median and largest |score| of the stars
of S/N above 100.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import resource
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import yaml
from scipy import ndimage, special

from astrid.config.schema.imaging import DifferenceConfig
from astrid.config.validate import validate
from astrid.core.dq import DQ, unusable
from astrid.imaging.pair import subtract_pair
from astrid.imaging.zogy import Side, kernels_for, padded_shape, subtract

ROOT = Path(__file__).resolve().parents[1]
REPEATS = 7
JITTER_PX = 0.1
THRESHOLD = 5.0  # sigma
BRIGHT_SNR = 100.0


def _skies():
    spec = importlib.util.spec_from_file_location("bench_skies", ROOT / "tests" / "support" / "skies.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_skies"] = module
    spec.loader.exec_module(module)
    return module


def _cpu_seconds(work, repeats=REPEATS):
    """Median CPU time of a call; the first, which plans and fills caches, does not count."""
    work()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return float(np.median(times))


def _bare_ffts(shape):
    """Eight planned float32 transforms of the padded shape, on one thread."""
    import pyfftw

    padded = padded_shape(shape, 31)
    real = pyfftw.zeros_aligned(padded, dtype="float32")
    hat = pyfftw.zeros_aligned((padded[0], padded[1] // 2 + 1), dtype="complex64")
    forward = pyfftw.FFTW(real, hat, axes=(0, 1), flags=("FFTW_ESTIMATE",), threads=1)
    inverse = pyfftw.FFTW(hat, real, axes=(0, 1), direction="FFTW_BACKWARD", flags=("FFTW_ESTIMATE", "FFTW_DESTROY_INPUT"), threads=1)

    def work():
        for _ in range(4):
            forward.execute()
            inverse.execute()

    return work


def _field(skies, size, jitter, seed=1):
    """A pair and its injected sources (x, y, flux), of known S/N by theory on blank sky."""
    rng = np.random.default_rng(seed)
    megapixels = size**2 / 1e6
    count = max(8, round(100 * megapixels))
    x, y = rng.uniform(30, size - 30, (2, count))
    new, ref = (skies.stamp_of(skies.pixelised(skies.moffat(width)), 15) for width in (3.0, 2.2))
    flat = np.zeros((128, 128), np.float32)
    sides = [Side(flat, flat + np.float32(sky), psf, float(np.sqrt(sky))) for psf, sky in ((new, 100.0), (ref, 25.0))]
    error = float(np.median(subtract(*sides).flux_error))
    snr = 3 * 10 ** rng.uniform(0, 1, count)
    sources = np.c_[x, y, snr * error]
    return skies.make_pair(seed=seed, shape=(size, size), count=round(360 * megapixels), transients=sources, jitter=jitter), sources


def _near(shape, x, y, reach):
    mark = np.ones(shape, bool)
    mark[np.clip(np.round(y).astype(int), 0, shape[0] - 1), np.clip(np.round(x).astype(int), 0, shape[1] - 1)] = False
    return ndimage.distance_transform_edt(mark) < reach


def _quality(result, sources, stars):
    """Found, expected, false peaks (+, -), and |score| at bright stars (median, largest)."""
    known = ~unusable(result.dq) & ((result.dq & np.uint32(DQ.EDGE)) == 0)
    rows, columns = np.round(sources[:, 1]).astype(int), np.round(sources[:, 0]).astype(int)
    peaks = ndimage.maximum_filter(result.score, 3)[rows, columns]
    snr = sources[:, 2] / np.where(np.isfinite(result.flux_err[rows, columns]), result.flux_err[rows, columns], np.inf)
    expected = 0.5 * (1 + special.erf((snr - THRESHOLD) / np.sqrt(2)))
    near = _near(result.score.shape, sources[:, 0], sources[:, 1], 9)
    false = [ndimage.label(known & ~near & (sign * result.score > THRESHOLD))[1] for sign in (1, -1)]
    bright = stars[stars[:, 2] > BRIGHT_SNR**2]  # S/N of a star that outshines its sky is the root of its electrons
    sx, sy = np.round(bright[:, 0]).astype(int), np.round(bright[:, 1]).astype(int)
    inside = (sx >= 0) & (sx < known.shape[1]) & (sy >= 0) & (sy < known.shape[0])
    sx, sy = sx[inside], sy[inside]
    clear = known[sy, sx] & ~near[sy, sx]
    score = ndimage.maximum_filter(np.abs(result.score), 3)[sy[clear], sx[clear]]
    return int((peaks > THRESHOLD).sum()), float(expected.sum()), false, (float(np.median(score)), float(score.max()))


def _row(skies, size, jitter, config):
    sky, sources = _field(skies, size, jitter)
    result = subtract_pair(sky.science, sky.reference, config)
    floor = _cpu_seconds(_bare_ffts((size, size)))
    sides = [
        Side(image.data, image.variance, psf.stamp, image.sky_rms, astrometry=(0.01, 0.01))
        for image, psf in ((sky.science, result.psf_science), (sky.reference, result.psf_reference))
    ]
    kernels = kernels_for(*sides)
    cached, fresh = _cpu_seconds(lambda: subtract(*sides, kernels)), _cpu_seconds(lambda: subtract(*sides))
    whole = _cpu_seconds(lambda: subtract_pair(sky.science, sky.reference, config), repeats=1)
    found, expected, false, star = _quality(result, sources, sky.stars)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return (
        f"{size:5d} {jitter:6.1f} {floor:8.3f} {cached / floor:8.2f} {fresh / floor:8.2f} {whole:7.2f} {memory:6.0f} | "
        f"{result.quality['q_score_std_raw']:6.3f} {found:6d} {expected:7.1f} {false[0]:6d} {false[1]:6d} {star[0]:9.2f} {star[1]:8.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 2048])
    sizes = parser.parse_args().sizes
    config = validate(DifferenceConfig, yaml.safe_load((ROOT / "conf" / "imaging" / "default.yaml").read_text())["difference"])
    skies = _skies()
    print(f"{'size':>5} {'jitter':>6} {'8 FFTs s':>8} {'cached x':>8} {'set-up x':>8} {'pair s':>7} {'MB':>6} | "
          f"{'std':>6} {'found':>6} {'theory':>7} {'false+':>6} {'false-':>6} {'star med':>9} {'star max':>8}")  # fmt: skip
    for size in sizes:
        for jitter in (0.0, JITTER_PX):
            print(_row(skies, size, jitter, config), flush=True)


if __name__ == "__main__":
    main()
