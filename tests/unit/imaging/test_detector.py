from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from astrid.config.schema.calibrate import DetectorConfig
from astrid.core.dq import names
from astrid.core.errors import ImagingError
from astrid.imaging.detector import Readout, edge_flags, parse_section, reduce_readout, saturation_flags

CONFIG = DetectorConfig(
    overscan_clip=4.0, saturation_fraction=0.97, bleed_min_px=4, bleed_grow_px=3, hot_sigma=8.0, dead_fraction=0.4, edge_px=2
)
NY, NX, WIDE = 30, 40, 8


def readout(**changes: object) -> Readout:
    """100 ADU of light over a level of 500 ADU, with an overscan at the right."""
    data = np.full((NY, NX + WIDE), 500.0, np.float32)
    data[:, :NX] += 100.0
    base = Readout(data, 2.0, 3.0, 60000.0, trim=(slice(0, NY), slice(0, NX)), overscan=(slice(0, NY), slice(NX, NX + WIDE)))
    return replace(base, **changes)


def flags(dq: np.ndarray, y: int, x: int) -> list[str]:
    return names(int(dq[y, x]))


def test_sections_are_one_based_and_inclusive():
    assert parse_section("[3:10,1:4]", (4, 12)) == (slice(0, 4), slice(2, 10))
    assert parse_section(" [ 1 : 12 , 2 : 4 ] ", (4, 12)) == (slice(1, 4), slice(0, 12))


@pytest.mark.parametrize(
    ("text", "message"), [("[1:2]", "is not of the form"), ("[0:3,1:4]", "leaves the image of 12 x 4"), ("[1:13,1:4]", "leaves")]
)
def test_impossible_sections_are_refused(text, message):
    with pytest.raises(ImagingError, match=message):
        parse_section(text, (4, 12))


def test_overscan_trim_and_gain_give_electrons():
    out = reduce_readout(readout(), CONFIG)
    assert out.data.shape == (NY, NX)
    assert out.data == pytest.approx(200.0)
    assert out.variance == pytest.approx(9.0 + 200.0)
    assert out.applied == ("overscan", "trim", "gain")
    assert out.overscan_level == pytest.approx(500.0)


def test_an_overscan_of_rows_is_taken_along_columns():
    data = np.vstack([np.full((NY, NX), 600.0), np.full((WIDE, NX), 500.0)]).astype(np.float32) + np.arange(NX, dtype=np.float32)
    out = reduce_readout(
        Readout(data, 2.0, 3.0, 6e4, trim=(slice(0, NY), slice(0, NX)), overscan=(slice(NY, NY + WIDE), slice(0, NX))), CONFIG
    )
    assert out.data[:, 8:-8] == pytest.approx(200.0, abs=1.0)


def test_one_wild_overscan_pixel_does_not_move_its_row():
    rng = np.random.default_rng(0)
    wild = readout()
    wild.data[:, NX:] += rng.normal(0, 1, (NY, WIDE)).astype(np.float32)
    before = reduce_readout(wild, CONFIG).data.copy()
    wild.data[7, NX + 2] += 5000.0
    assert np.abs(reduce_readout(wild, CONFIG).data - before).max() < 1.0


def test_the_master_bias_gives_its_structure_with_an_overscan_and_its_level_without():
    structure = np.zeros((NY, NX), np.float32)
    structure[:, ::5] = 4.0
    with_level = readout()
    with_level.data[:, :NX] += structure
    out = reduce_readout(replace(with_level, bias=structure + 480.0), CONFIG)
    assert out.data == pytest.approx(200.0)
    bare = Readout(np.full((NY, NX), 600.0, np.float32), 2.0, 3.0, 6e4, bias=np.full((NY, NX), 500.0, np.float32))
    assert reduce_readout(bare, CONFIG).data == pytest.approx(200.0)


def test_the_flat_is_normalised_and_dead_pixels_are_marked():
    flat = np.full((NY, NX), 30000.0, np.float32)
    flat[4, 5], flat[6, 7], flat[9, 9] = 15000.0, 100.0, np.nan
    out = reduce_readout(readout(flat=flat), CONFIG)
    assert out.data[0, 0] == pytest.approx(200.0)
    assert out.data[4, 5] == pytest.approx(400.0)
    assert out.variance[4, 5] == pytest.approx(4 * 209.0)
    assert flags(out.dq, 6, 7) == flags(out.dq, 9, 9) == ["BAD"]
    assert np.isfinite(out.data).all()


def test_hot_masked_lost_and_edge_pixels_are_marked():
    bias = np.random.default_rng(1).normal(0, 2, (NY, NX)).astype(np.float32)
    bias[10, 11] = 300.0
    mask = np.zeros((NY, NX), bool)
    mask[12, 13] = True
    lost = readout(bias=bias, mask=mask)
    lost.data[14, 15] = np.nan
    out = reduce_readout(lost, CONFIG)
    assert flags(out.dq, 10, 11) == ["HOT"]
    assert flags(out.dq, 12, 13) == ["BAD"]
    assert flags(out.dq, 14, 15) == ["NOT_FINITE"]
    assert flags(out.dq, 1, 20) == ["EDGE"]
    assert flags(out.dq, 20, 20) == []
    assert np.isfinite(out.data).all()
    assert np.isfinite(out.variance).all()


def test_saturation_and_bleeding_need_a_level_and_a_run():
    data = np.zeros((NY, NX), np.float32)
    data[5:15, 8] = 60000.0
    data[20, 20] = 58300.0
    out = saturation_flags(data, 60000.0, CONFIG)
    assert flags(out, 10, 8) == ["SATURATED", "BLEED"]
    assert flags(out, 17, 8) == flags(out, 10, 9) == ["BLEED"]
    assert flags(out, 18, 8) == []
    assert flags(out, 20, 20) == ["SATURATED"]
    assert not saturation_flags(data, float("nan"), CONFIG).any()


def test_the_edge_has_its_margin():
    flagged = edge_flags((10, 12), CONFIG) != 0
    assert flagged.sum() == 120 - 6 * 8
    assert not edge_flags((10, 12), replace(CONFIG, edge_px=0)).any()


def test_unknown_read_noise_is_measured_in_the_overscan():
    rng = np.random.default_rng(3)
    noisy = readout(read_noise=float("nan"))
    noisy.data[:, NX:] += rng.normal(0, 4, (NY, WIDE)).astype(np.float32)
    assert reduce_readout(noisy, CONFIG).read_noise == pytest.approx(8.0, rel=0.2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gain": float("nan")}, "gain of a raw exposure must be positive"),
        ({"gain": 0.0}, "gain of a raw exposure must be positive, not 0"),
        ({"read_noise": float("nan"), "overscan": None}, "read noise is unknown"),
        ({"flat": np.ones((3, 4), np.float32)}, "master flat has 4 x 3 pixels but the exposure 48 x 30 .40 x 30 trimmed"),
        ({"bias": np.ones((3, 4), np.float32)}, "master bias has 4 x 3"),
        ({"mask": np.ones((3, 4), bool)}, "mask has 4 x 3"),
        ({"flat": np.zeros((NY, NX), np.float32)}, "median 0, which is not positive"),
    ],
)
def test_what_cannot_be_reduced_says_why(changes, message):
    with pytest.raises(ImagingError, match=message):
        reduce_readout(readout(**changes), CONFIG)


def test_an_overscan_without_a_finite_pixel_in_a_line_is_refused():
    broken = readout()
    broken.data[4, NX:] = np.nan
    with pytest.raises(ImagingError, match="1 lines of the overscan"):
        reduce_readout(broken, CONFIG)
