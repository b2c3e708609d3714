"""Everything that was found in one exposure, with PSF fits of its stars: measured once, used by every later step."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from astrid.config.schema.psf import PsfConfig
from astrid.core.records import Psf
from astrid.imaging.stars.find import STAR_DTYPE, Plane, StarFlag, find_stars
from astrid.imaging.stars.profile import Cutouts, Floats, StampField, StarFit, cut_out, field_of, fit_stars

SOURCE_DTYPE = np.dtype(
    [
        *STAR_DTYPE.descr,
        ("x_fit", "f8"),  # px, PSF fit; NaN where none was made
        ("y_fit", "f8"),  # px
        ("flux_fit", "f8"),  # unit of the image
        ("error_x", "f8"),  # px, 1 sigma
        ("error_y", "f8"),  # px
        ("error_flux", "f8"),  # unit of the image
        ("chi2", "f8"),  # of the fit, a degree of freedom
        ("good", "?"),  # the fit converged on an unmasked core
    ]
)
_FITTED = np.uint32(~StarFlag.BLENDED & 0xFFFFFFFF)  # a source with any other flag than this is not fitted
_FIT_FWHMS = 1.5  # FWHM, half the side of a fit's cutout
_LEAST_HALF = 3  # px
_CHUNK = 256  # neighbours whose light is evaluated at once


def measure_sources(
    data: Plane, variance: Plane, dq: Plane, psf: Psf, config: PsfConfig, *, found: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Find the sources of an exposure and fit the PSF to its stars.

    Stars with close neighbours (`StarFlag.BLENDED` alone) are fitted too. Every star is fitted twice, the second time without the
    other stars' light.

    Parameters
    ----------
    data, variance, dq
        (ny, nx) planes, as `find_stars` takes them.
    psf
        Constant or varying; a fit takes the PSF at its star's place.
    config
        Star selection.
    found
        The output of `find_stars`, when it is already there.

    Returns
    -------
    Structured (n,) array of `SOURCE_DTYPE`, brightest first: every source with its flags, and the fits where there are any.
    """
    stars = find_stars(data, variance, dq, config.stars, psf=psf) if found is None else found
    sources = np.zeros(len(stars), SOURCE_DTYPE)
    for name in STAR_DTYPE.names or ():
        sources[name] = stars[name]
    for name in ("x_fit", "y_fit", "flux_fit", "error_x", "error_y", "error_flux", "chi2"):
        sources[name] = np.nan
    chosen = (sources["flags"] & _FITTED) == 0
    fit = fit_apart(data, variance, dq, sources[chosen], psf)
    for name, values in (("x_fit", fit.x), ("y_fit", fit.y), ("flux_fit", fit.flux)):
        sources[name][chosen] = values
    for name in ("error_x", "error_y", "error_flux", "chi2", "good"):
        sources[name][chosen] = getattr(fit, name)
    return sources


def fit_apart(data: Plane, variance: Plane, dq: Plane, stars: NDArray[Any], psf: Psf) -> StarFit:
    """PSF fits of stars, each without the light of the others among them."""
    field = field_of(psf)
    x, y = stars["x"].astype(float), stars["y"].astype(float)
    cutouts = cut_out(data, variance, dq, x, y, max(_LEAST_HALF, int(np.ceil(_FIT_FWHMS * psf.fwhm))))
    first = fit_stars(cutouts, x, y, field)
    light = neighbours_light(cutouts, first, field)
    touched = np.asarray(light.any(axis=(1, 2)))
    if not touched.any():
        return first
    part = cutouts.part(touched)
    again = fit_stars(Cutouts(part.data - light[touched], part.weight, part.y, part.x), first.x[touched], first.y[touched], field)
    for name in StarFit.__dataclass_fields__:
        getattr(first, name)[touched] = getattr(again, name)
    return first


def neighbours_light(cutouts: Cutouts, fit: StarFit, field: StampField) -> Floats:
    """(n, k, k): what the other fitted stars add to each star's cutout."""
    light = np.zeros_like(cutouts.data)
    reach = cutouts.data.shape[1] // 2 + field.coefficients.shape[1] // 2
    known = np.flatnonzero(fit.good)
    pairs = cKDTree(np.c_[fit.x[known], fit.y[known]]).query_pairs(reach, p=np.inf, output_type="ndarray")
    if len(pairs) == 0:
        return light
    pairs = known[np.concatenate([pairs, pairs[:, ::-1]])]
    for low in range(0, len(pairs), _CHUNK):
        star, other = pairs[low : low + _CHUNK].T
        values = field.values(cutouts.part(star), fit.y[other], fit.x[other])
        np.add.at(light, star, fit.flux[other][:, None, None] * values)
    return light
