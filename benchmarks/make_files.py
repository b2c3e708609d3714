"""Write a pair as two calibrated FITS files, in a process of its own so that its memory counts for no measurement.

    python benchmarks/make_files.py NY NX SEED FOLDER

The sources of the test pair on a dithered reference, in strips of rows, so that a mosaic of 12000 x 12000 px needs some GB.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from astrid.core.records import Calibrated
from astrid.io.fits import write_calibrated
from benchmarks.field import FWHM, SKY, Floats, identity, onto, render, scene_tables, tan_wcs

TURN, SHIFT, HEADER = 0.05, (3.3, -2.6), (2.0, -1.0)  # deg, px, px: a dithered reference of the same telescope
STRIP, REACH = 500, 60  # rows rendered at a time; px that a source reaches


def main() -> None:
    """Make and write the science exposure, then the reference."""
    ny, nx, seed = map(int, sys.argv[1:4])
    folder, shape = Path(sys.argv[4]), (ny, nx)
    folder.mkdir(parents=True, exist_ok=True)
    stars, galaxies = scene_tables(np.random.default_rng([seed, 1]), shape)
    wcs, true = tan_wcs(shape, 0.0, (0.0, 0.0)), tan_wcs(shape, TURN, SHIFT)
    stated = tan_wcs(shape, TURN, (SHIFT[0] + HEADER[0], SHIFT[1] + HEADER[1]))
    moved = onto(true, wcs, stars), onto(true, wcs, galaxies)
    moved[1][:, 5] += np.deg2rad(TURN)
    for index, (tables, header) in enumerate((((stars, galaxies), wcs), (moved, stated))):
        data, variance = _planes(shape, index, tables, np.random.default_rng([seed, 2 + index]))
        image = Calibrated(
            data=data,
            variance=variance,
            dq=np.zeros(shape, np.uint32),
            wcs=header,
            info=identity(index),
            sky=SKY[index],
            sky_rms=float(np.sqrt(SKY[index])),
        )
        write_calibrated(folder / f"{image.info.exposure_id}.fits", image)
    print(json.dumps({"folder": str(folder)}))


def _planes(shape: tuple[int, int], index: int, tables: tuple[Floats, Floats], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Data and true variance, float32."""
    data, variance = np.empty(shape, np.float32), np.empty(shape, np.float32)
    for start in range(0, shape[0], STRIP):
        rows = slice(start, min(start + STRIP, shape[0]))
        here = [table[(table[:, 1] > start - REACH) & (table[:, 1] < rows.stop + REACH)].copy() for table in tables]
        for table in here:
            table[:, 1] -= start
        signal = render((rows.stop - start, shape[1]), FWHM[index], *here)
        variance[rows] = signal + SKY[index]
        data[rows] = signal + rng.standard_normal(signal.shape, dtype=np.float32) * np.sqrt(variance[rows])
    return data, variance


if __name__ == "__main__":
    main()
