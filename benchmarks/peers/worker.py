"""Runs one peer on one problem; knows nothing of AstrID. Arrays in and out are npz files, the last line printed is JSON.

.venv-bench/bin/python benchmarks/peers/worker.py NAME TASK IN.npz OUT.npz
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

KERNEL_HALF = 6  # px: two FWHM of the broader PSF, sfft's own rule
KERNEL_SIDE = 11  # px, of ois


def sfft(given):
    """Kernel fitted in Fourier space with the numpy backend, one thread, spatial order 2; the sharper reference is convolved."""
    from astropy.io import fits
    from sfft.CustomizedPacket import Customized_Packet

    with tempfile.TemporaryDirectory() as folder:
        paths = {name: str(Path(folder) / f"{name}.fits") for name in ("reference", "science", "difference")}
        for name in ("reference", "science"):
            fits.writeto(paths[name], given[name].astype(np.float64).T.copy().T)

        def work():
            Customized_Packet.CP(
                FITS_REF=paths["reference"],
                FITS_SCI=paths["science"],
                FITS_mREF=paths["reference"],
                FITS_mSCI=paths["science"],
                ForceConv="REF",
                GKerHW=KERNEL_HALF,
                FITS_DIFF=paths["difference"],
                BACKEND_4SUBTRACT="Numpy",
                NUM_CPU_THREADS_4SUBTRACT=1,
                VERBOSE_LEVEL=0,
            )

        small = {"reference": given["reference"][:256, :256], "science": given["science"][:256, :256]}
        for name, plane in small.items():  # compiles what numba compiles, which is not the peer's time
            fits.writeto(paths[name], plane.astype(np.float64), overwrite=True)
        work()
        for name in small:
            fits.writeto(paths[name], given[name].astype(np.float64), overwrite=True)
        seconds = _cpu(work)
        return {"difference": fits.getdata(paths["difference"]).astype(np.float32)}, seconds


def properimage(given):
    """ZOGY with the package's own PSF and flux scale."""
    from properimage.operations import subtract

    out = {}

    def work():
        reference, science = given["reference"].astype(np.float64), given["science"].astype(np.float64)
        _, _, score, mask = subtract(reference, science, align=False, fitted_psf=True)
        out["score"] = np.where(mask, 0.0, np.real(score)).astype(np.float32)

    return out, _cpu(work)


def ois(given):
    """Delta-basis kernel (Bramich 2008), constant over the image."""
    from ois import optimal_system

    out = {}

    def work():
        found = optimal_system(given["science"].astype(np.float64), given["reference"].astype(np.float64), (KERNEL_SIDE,) * 2, 1, "Bramich")
        out["difference"] = np.asarray(found[0], dtype=np.float32)

    return out, _cpu(work)


def astroalign(given):
    """Similarity transform by triangles, of the brightest points."""
    import astroalign as aa

    out = {}

    def work():
        order = np.argsort(-given["flux"])
        points = [np.c_[given[f"{s}x"], given[f"{s}y"]][order] for s in ("s", "r")]
        found, _ = aa.find_transform(points[0], points[1], max_control_points=len(order))
        out["matrix"] = found.params

    return out, _cpu(work)


def tweakwcs(given):
    """Catalogues matched on the header's grid, then a clipped affine fit."""
    from astropy.table import Table
    from tweakwcs import XYXYMatch
    from tweakwcs.linearfit import iter_linear_fit

    out = {}

    def work():
        ours, theirs = np.c_[given["hx"], given["hy"]], np.c_[given["rx"], given["ry"]]  # science through the header, reference
        tables = [Table({"TPx": table[:, 0], "TPy": table[:, 1]}) for table in (theirs, ours)]
        for table in tables:
            table.meta["name"] = "points"
        ref, img = XYXYMatch(searchrad=10, separation=0.5, tolerance=2.0)(tables[0], tables[1])
        science = np.c_[given["sx"], given["sy"]]
        fit = iter_linear_fit(theirs[ref], science[img], fitgeom="general", nclip=3, sigma=3.0)
        # theirs = matrix (ours - centre) + shift + centre, found by a fit of our own to the matched pairs' solution
        design = np.c_[science[img], np.ones(len(img))][fit["fitmask"]]
        affine = np.linalg.lstsq(design, theirs[ref][fit["fitmask"]], rcond=None)[0]
        out["matrix"] = np.vstack([affine.T, [0, 0, 1]])

    return out, _cpu(work)


def spalipy(given):
    """Affine transform by quads, then spline surfaces."""
    from astropy.table import Table
    from spalipy import Spalipy

    out = {}

    def work():
        tables = []
        for side in ("s", "r"):
            x, y, n = given[f"{side}x"], given[f"{side}y"], len(given["flux"])
            tables.append(Table({"x": x, "y": y, "flux": given["flux"], "fwhm": np.full(n, 3.0), "flag": np.zeros(n, int)}))
        side = int(given["side"])
        aligner = Spalipy(np.zeros((side, side)), source_det=tables[1], template_det=tables[0], output_shape=(side, side), min_n_match=50)
        aligner.make_source_quadlist()
        aligner.make_template_quadlist()
        aligner.fit_affine_transform()
        transform = aligner.affine_transform
        grid = np.c_[given["gx"], given["gy"]]
        inverse = transform.inverse() if callable(getattr(transform, "inverse", None)) else transform
        out["mapped"] = np.asarray(inverse.apply_transform(grid))

    return out, _cpu(work)


def image_registration(given):
    """One shift of the whole image, by cross-correlation."""
    from image_registration import chi2_shift

    out = {}

    def work():
        dx, dy, *_ = chi2_shift(given["science"].astype(float), given["reference"].astype(float), upsample_factor="auto")
        out["shift"] = np.array([dx, dy])

    return out, _cpu(work)


def piff(given):
    """A pixel grid, constant over the image."""
    import galsim
    import piff as p

    half, out = int(given["half"]), {}

    def work():
        wcs = galsim.PixelScale(1.0)
        image = galsim.Image(given["data"].astype(np.float64), xmin=1, ymin=1, wcs=wcs)
        weight = galsim.Image(1.0 / given["variance"].astype(np.float64), xmin=1, ymin=1, wcs=wcs)
        stars = []
        for x, y in zip(given["x"], given["y"], strict=True):
            place = galsim.PositionD(float(x) + 1, float(y) + 1)
            box = galsim.BoundsI(round(x) + 1 - half, round(x) + 1 + half, round(y) + 1 - half, round(y) + 1 + half)
            stars.append(p.Star(p.StarData(image[box].copy(), place, weight=weight[box].copy()), None))
        psf = p.SimplePSF(p.PixelGrid(0.5, 4 * half + 1), p.Mean())
        psf.fit(stars, {0: wcs}, None, logger=None)
        middle = galsim.PositionD(given["data"].shape[1] / 2, given["data"].shape[0] / 2)
        side = 2 * half + 1
        drawn = psf.draw(x=round(middle.x), y=round(middle.y), stamp_size=side, center=True)
        out["stamp"] = drawn.array

    return out, _cpu(work)


def _cpu(work):
    start = time.process_time()
    work()
    return time.process_time() - start


def _peak_gb():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1e6
    return float("nan")


PEERS = {
    ("sfft", "subtraction"): sfft,
    ("properimage", "subtraction"): properimage,
    ("ois", "subtraction"): ois,
    ("astroalign", "mapping"): astroalign,
    ("tweakwcs", "mapping"): tweakwcs,
    ("spalipy", "mapping"): spalipy,
    ("image-registration", "mapping"): image_registration,
    ("piff", "psf"): piff,
}


def main():
    name, task, source, target = sys.argv[1:5]
    with np.load(source) as found:
        given = dict(found)
    arrays, seconds = PEERS[name, task](given)
    np.savez(target, **arrays)
    print()
    print(json.dumps({"cpu_s": seconds, "peak_gb": _peak_gb(), "version": version(name)}))


if __name__ == "__main__":
    main()
