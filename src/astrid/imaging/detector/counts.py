"""Exposures of few photons: their sky as a mean and their variance as Poisson's, where medians and measured pixels are biased.

At less than one count a pixel the median is 0 and a clipped mean low; the mean of the pixels without sources is unbiased at any
level, and the variance of a count is its expectation: the sky's, which the exposure map shapes, plus the sources'.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, special

from astrid.config.schema.calibrate import BackgroundConfig, CountsConfig
from astrid.core.errors import ImagingError
from astrid.core.records import FloatImage
from astrid.imaging.detector.background import Background

_BRIGHT = 4.0  # sigma of a pixel, above which its own value is the expectation
_LIGHT_SMOOTHING = 1.0  # px, sigma of the Gaussian over the fainter ones
FAINT_SMOOTHING = 1.5  # px, sigma of the Gaussian under which a faint source's counts become its expectation
_LEAST_CELLS = 1e-6  # of a cell's exposure; below it a cell tells nothing


def measure_counts_background(
    counts: FloatImage, exposure: FloatImage | None, mask: NDArray[np.bool_], config: BackgroundConfig, few: CountsConfig
) -> Background:
    """Sky of a counting detector: counts over exposure of the pixels without sources, in cells of a mesh.

    The expectation of pixel i is rate * exposure_i; in a cell the rate's best estimate is sum(counts) / sum(exposure) (maximum
    likelihood of Poisson's law). Sources are discs whose counts empty sky reaches with at most `few.source_probability`.

    Parameters
    ----------
    counts
        (ny, nx) float32, counts; resampled ones need not be whole.
    exposure
        (ny, nx) float32, relative exposure; None = even. Pixels with 0 do not count.
    mask
        (ny, nx) True where a pixel must not count.

    Returns
    -------
    Background in counts; its `rms` is the square root of its `level`.

    Raises
    ------
    ImagingError
        Fewer pixels are free of sources and masks than `config.max_masked_fraction` leaves.
    """
    weight = np.ones(counts.shape) if exposure is None else np.nan_to_num(np.asarray(exposure, dtype=np.float64))
    weight = np.where(weight > 0, weight, 0.0)
    usable = ~mask & (weight > 0)
    seen = np.where(usable, counts, 0.0).astype(np.float64)
    sources = np.zeros(counts.shape, bool)
    level = np.zeros(counts.shape)
    for _ in range(config.iterations + 1):
        free = usable & ~sources
        _check(free, config)
        level = _rate(np.where(free, seen, 0.0), np.where(free, weight, 0.0), config, few) * weight
        found = _sources(seen, np.where(usable, level, 0.0), config, few)
        if (found == sources).all():
            break
        sources = found
    free = usable & ~sources
    middle = float(np.mean(level[free]))
    return Background(level.astype(np.float32), np.sqrt(level).astype(np.float32), sources, middle, float(np.sqrt(middle)))


def counts_variance(counts: FloatImage, background: Background, few: CountsConfig) -> FloatImage:
    """Variance, counts^2: the sky's expectation, plus that of the sources where there are some.

    In a source of many counts that is the counts themselves, unclipped; in a faint one the counts smoothed over a pixel or two,
    so that a pixel without a photon is not taken for one without noise.
    """
    excess = np.where(background.sources, counts - background.level, 0.0).astype(np.float64)
    faint = ndimage.gaussian_filter(excess, FAINT_SMOOTHING) + background.level < few.few
    source = np.where(faint, 0.0, excess) + np.maximum(ndimage.gaussian_filter(np.where(faint, excess, 0.0), FAINT_SMOOTHING), 0.0)
    variance = background.level + source
    floor = np.where(background.level > 0, background.level, np.float64(np.finfo(np.float32).tiny))
    return np.asarray(np.maximum(variance, floor), dtype=np.float32)


def expected_light(excess: FloatImage, sources: NDArray[np.bool_], noise: FloatImage | float) -> FloatImage:
    """What the sources are expected to add to the sky, unit of `excess` = image - sky: nothing beside them.

    A variance made from an image's own pixels follows their noise: every upward fluctuation is given a larger error, and the score
    of blank sky comes out too narrow and skewed. So light is taken as measured only where one pixel stands out of the noise by
    far, and elsewhere it is the mean of the faint pixels around.
    """
    bright = excess > _BRIGHT * noise
    faint = ndimage.gaussian_filter((~bright).astype(np.float32), _LIGHT_SMOOTHING)
    mean = ndimage.gaussian_filter(np.where(bright, np.float32(0.0), excess), _LIGHT_SMOOTHING) / np.maximum(faint, np.float32(1e-3))
    return np.where(sources, np.where(bright, excess, np.maximum(mean, 0.0)), np.float32(0.0)).astype(np.float32)


def mean_background(
    data: FloatImage, rough: Background, mask: NDArray[np.bool_], config: BackgroundConfig, few: CountsConfig
) -> Background:
    """The sky of a few electrons with read noise: the mean in cells, without the sources of a rough background; `rms` stays that one's.

    A skew distribution's median and mode lie below its mean, which is what the sky adds to a sum of pixels.
    """
    free = ~(mask | rough.sources)
    _check(free, config)
    level = _rate(np.where(free, data, 0.0), free.astype(np.float64), config, few).astype(np.float32)
    return Background(level, rough.rms, rough.sources, float(np.median(level[free])), rough.median_rms)


def is_counting(data: FloatImage, unit: str) -> bool:
    """True for whole, non-negative counts: what a detector of single photons delivers."""
    if unit.strip().lower() not in ("count", "counts", "ct", "photon", "photons"):
        return False
    finite = data[np.isfinite(data)]
    return bool(len(finite)) and bool((finite >= 0).all()) and bool((np.mod(finite, 1) == 0).all())


def _check(free: NDArray[np.bool_], config: BackgroundConfig) -> None:
    fraction = 1.0 - float(free.mean())
    if fraction > config.max_masked_fraction or not free.any():
        raise ImagingError(
            f"{fraction:.1%} of the pixels are masked or on sources, more than max_masked_fraction = {config.max_masked_fraction:.1%}; "
            "no sky can be measured."
        )


def _rate(seen: NDArray[np.float64], weight: NDArray[np.float64], config: BackgroundConfig, few: CountsConfig) -> NDArray[np.float64]:
    """Counts a unit of exposure, smooth over the image: ratios of sums over cells and their neighbours, bilinear between centres."""
    ny, nx = seen.shape
    total = float(seen.sum())
    side = float(min(config.mesh_px, ny, nx))
    while side < max(ny, nx) and total * side**2 / seen.size < few.least:
        side *= 2.0
    rows, columns = (max(1, round(length / side)) for length in (ny, nx))
    sums = [_cells(plane, rows, columns) for plane in (seen, weight)]
    near = [ndimage.uniform_filter(plane, config.filter_cells, mode="constant") for plane in sums]
    enough = near[1] > _LEAST_CELLS * near[1].max()
    overall = total / float(weight.sum())
    rate = np.where(enough, near[0] / np.where(enough, near[1], 1.0), overall)
    at_y = np.clip((np.arange(ny) + 0.5) * rows / ny - 0.5, 0, rows - 1)
    at_x = np.clip((np.arange(nx) + 0.5) * columns / nx - 0.5, 0, columns - 1)
    return _bilinear(rate, at_y, at_x)


def _cells(plane: NDArray[np.float64], rows: int, columns: int) -> NDArray[np.float64]:
    edges = [np.linspace(0, length, count, endpoint=False).astype(int) for length, count in zip(plane.shape, (rows, columns), strict=True)]
    summed: NDArray[np.float64] = np.add.reduceat(np.add.reduceat(plane, edges[0], axis=0), edges[1], axis=1)
    return summed


def _bilinear(grid: NDArray[np.float64], at_y: NDArray[np.float64], at_x: NDArray[np.float64]) -> NDArray[np.float64]:
    """A grid at the fractional indices at_y, at_x, as an image (len(at_y), len(at_x))."""
    low_y, low_x = at_y.astype(int), at_x.astype(int)
    high_y, high_x = np.minimum(low_y + 1, grid.shape[0] - 1), np.minimum(low_x + 1, grid.shape[1] - 1)
    share_y, share_x = (at_y - low_y)[:, None], (at_x - low_x)[None, :]
    lower = grid[low_y] * (1 - share_y) + grid[high_y] * share_y
    out: NDArray[np.float64] = lower[:, low_x] * (1 - share_x) + lower[:, high_x] * share_x
    return out


def _sources(seen: NDArray[np.float64], level: NDArray[np.float64], config: BackgroundConfig, few: CountsConfig) -> NDArray[np.bool_]:
    """Centres of discs with too many counts for empty sky, grown: P(N >= n | mu) = P(n, mu), the regularised gamma function."""
    bright = np.zeros(seen.shape, bool)
    for radius in few.apertures_px:
        disc = _disc(radius)
        inside, expected = (np.maximum(_summed(plane, disc), 0.0) for plane in (seen, level))
        # Only a disc above its expectation can be a source, and the tail is costly: most of the image is spared.
        over = inside > expected + 2.0 * np.sqrt(expected) + 1.0
        chance = special.gammainc(np.maximum(inside[over], 0.5), np.maximum(expected[over], 1e-12))
        bright[over] |= chance < few.source_probability
    if config.source_grow_px and bright.any():
        bright = np.asarray(ndimage.binary_dilation(bright, iterations=config.source_grow_px), dtype=bool)
    return bright


def _disc(radius: float) -> NDArray[np.float64]:
    reach = int(radius)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    return np.asarray(np.hypot(x, y) <= radius, dtype=np.float64)


def _summed(plane: NDArray[np.float64], disc: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum over the disc around every pixel: of running sums along its rows, one for each half-width."""
    ny, nx = plane.shape
    reach = disc.shape[0] // 2
    padded = np.pad(plane, ((reach, reach), (reach + 1, reach)))
    running = np.cumsum(padded, axis=1)
    out: NDArray[np.float64] = np.zeros(plane.shape)
    for row, line in enumerate(disc):
        half = int(line.sum()) // 2
        band = running[row : row + ny]
        out += band[:, reach + half + 1 : reach + half + 1 + nx] - band[:, reach - half : reach - half + nx]
    return out
