"""Subtraction: seconds as ratios to eight bare FFTs of the same run, and quality against the matched filter's theory.

    python benchmarks/subtraction.py [--sizes 512 1024 2048]

The field is that of the design notes: Moffat PSFs (beta 3.5) of FWHM 3.0 and 2.2 px, 360 stars a megapixel, 100 injected point
sources a megapixel of matched-filter S/N 3 to 30.
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
from astrid.imaging.zogy import Side, padded_shape, subtract

ROOT = Path(__file__).resolve().parents[1]
REPEATS = 3


def _skies():
    spec = importlib.util.spec_from_file_location("bench_skies", ROOT / "tests" / "support" / "skies.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_skies"] = module
    spec.loader.exec_module(module)
    return module


def _median_seconds(work):
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
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


def _field(skies, size, seed=1):
    """A pair and its injected sources (x, y, flux, S/N by theory on blank sky)."""
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
    return skies.make_pair(seed=seed, shape=(size, size), count=round(360 * megapixels), transients=sources), sources


def _quality(result, sources):
    known = ~unusable(result.dq) & ((result.dq & np.uint32(DQ.EDGE)) == 0)
    rows, columns = np.round(sources[:, 1]).astype(int), np.round(sources[:, 0]).astype(int)
    peaks = ndimage.maximum_filter(result.score, 3)[rows, columns]
    snr = sources[:, 2] / np.where(np.isfinite(result.flux_err[rows, columns]), result.flux_err[rows, columns], np.inf)
    expected = 0.5 * (1 + special.erf((snr - 5) / np.sqrt(2)))
    near = np.zeros(result.score.shape, bool)
    near[rows, columns] = True
    near = ndimage.distance_transform_edt(~near) < 9
    false = [ndimage.label(known & ~near & (sign * result.score > 5))[1] for sign in (1, -1)]
    return int((peaks > 5).sum()), float(expected.sum()), false


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1024])
    sizes = parser.parse_args().sizes
    config = validate(DifferenceConfig, yaml.safe_load((ROOT / "conf" / "imaging" / "default.yaml").read_text())["difference"])
    skies = _skies()
    print(f"{'size':>5} {'8 FFTs s':>9} {'ZOGY s':>8} {'ratio':>6} {'pair s':>8} {'ratio':>6} {'MB':>6} | "
          f"{'std':>6} {'found':>6} {'theory':>7} {'false+':>6} {'false-':>6} {'star score':>10} {'reg px':>7}")  # fmt: skip
    for size in sizes:
        sky, sources = _field(skies, size)
        result = subtract_pair(sky.science, sky.reference, config)
        floor = _median_seconds(_bare_ffts((size, size)))
        sides = [
            Side(image.data, image.variance, psf.stamp, image.sky_rms, astrometry=(0.01, 0.01))
            for image, psf in ((sky.science, result.psf_science), (sky.reference, result.psf_reference))
        ]
        core = _median_seconds(lambda sides=sides: subtract(*sides))
        whole = _median_seconds(lambda sky=sky: subtract_pair(sky.science, sky.reference, config))
        found, expected, false = _quality(result, sources)
        q = result.quality
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{size:5d} {floor:9.3f} {core:8.3f} {core / floor:6.1f} {whole:8.2f} {whole / floor:6.1f} {memory:6.0f} | "
              f"{q['q_score_std_raw']:6.3f} {found:6d} {expected:7.1f} {false[0]:6d} {false[1]:6d} {q['q_star_score']:10.2f} "
              f"{q['q_registration_rms_px']:7.3f}")  # fmt: skip


if __name__ == "__main__":
    main()
