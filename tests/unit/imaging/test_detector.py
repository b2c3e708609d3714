from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from astrid.config.schema.calibrate import AmplifierConfig, DetectorConfig
from astrid.core.archive import Amplifier
from astrid.core.dq import names
from astrid.core.errors import ImagingError
from astrid.imaging.detector.readout import Readout, configured_amplifiers, edge_flags, parse_section, reduce_readout, saturation_flags

CONFIG = DetectorConfig(
    overscan_clip=4.0, saturation_fraction=0.97, bleed_min_px=4, bleed_grow_px=3, bleed_sigma=6.0, bleed_along="columns",
    linearity=(), amplifiers=(), hot_sigma=8.0, dead_fraction=0.4, edge_px=2,
)  # fmt: skip
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


def test_a_dark_is_scaled_by_exposure_time_and_its_hot_pixels_are_marked():
    rng = np.random.default_rng(4)
    dark = rng.normal(5.0, 0.1, (NY, NX)).astype(np.float32)
    dark[10, 11] = 90.0
    lit = readout(dark=dark, exptime=60.0, dark_exptime=30.0)
    lit.data[:, :NX] += 2 * dark
    out = reduce_readout(lit, CONFIG)
    assert out.data == pytest.approx(200.0, abs=1e-3)
    assert out.variance == pytest.approx(9.0 + 200.0 + 2 * 2 * dark, rel=1e-4)  # the dark's electrons are noise too
    assert flags(out.dq, 10, 11) == ["HOT"]
    assert "dark" in out.applied
    for changes, message in (({"dark_exptime": float("nan")}, "of the master dark is nan s"), ({"exptime": 0.0}, "of the exposure is 0 s")):
        with pytest.raises(ImagingError, match=message):
            reduce_readout(replace(lit, **changes), CONFIG)


def test_the_variance_of_the_master_frames_is_carried():
    frame = np.ones((NY, NX), np.float32)
    flat = 20000.0 * frame
    flat[:, ::2] *= 0.8
    given = readout(
        bias=500 * frame, dark=3 * frame, flat=flat, exptime=60.0, dark_exptime=30.0,
        variances={"bias": 0.25 * frame, "dark": 0.5 * frame, "flat": (100.0 * frame) ** 2},
    )  # fmt: skip
    out = reduce_readout(given, CONFIG)
    response = flat / np.median(flat)
    electrons = (200.0 - 2 * 3.0 * 2.0) / response
    before = 9.0 + 200.0 + 0.25 * 4 + 0.5 * 4 * 4
    relative = (100.0 / np.median(flat)) ** 2 / response**2
    assert out.variance == pytest.approx(before / response**2 + electrons**2 * relative, rel=1e-5)


def test_counts_below_the_bias_are_not_clipped_out_of_the_variance():
    dim = readout(gain=1.0)
    dim.data[:, :NX] = 500.0 + np.random.default_rng(5).normal(1.0, 3.2, (NY, NX))
    out = reduce_readout(dim, CONFIG)
    assert out.variance.mean() == pytest.approx(9.0 + out.data.mean(), rel=0.01)
    assert out.variance.min() > 0


def quadrants() -> tuple[Readout, np.ndarray]:
    """Two by two amplifiers of 15 x 20 pixels with overscans in the middle, each with its own level, gain and saturation."""
    frame = np.zeros((NY, NX + 2 * WIDE), np.float32)
    truth = np.arange(NY * NX, dtype=float).reshape(NY, NX) + 100.0
    amplifiers = []
    for index in range(4):
        rows = slice(15 * (index // 2), 15 * (index // 2) + 15)
        half = index % 2
        columns, over = (slice(0, 20), slice(20, 28)) if half == 0 else (slice(36, 56), slice(28, 36))
        place = (rows, slice(20 * half, 20 * half + 20))
        gain, level = 1.0 + 0.5 * index, 300.0 + 50 * index
        frame[rows, columns] = truth[place] / gain + level
        frame[rows, over] = level
        amplifiers.append(Amplifier(f"a{index}", (rows, columns), place, (rows, over), gain, 3.0 + index, 1200.0 if index == 1 else 1e5))
    return Readout(frame, float("nan"), float("nan"), float("nan"), amplifiers=tuple(amplifiers)), truth


def test_every_amplifier_has_its_own_level_gain_noise_and_saturation():
    raw, truth = quadrants()
    out = reduce_readout(raw, replace(CONFIG, saturation_fraction=0.6))
    assert out.data == pytest.approx(truth, rel=1e-5)
    assert out.variance[3, 3] == pytest.approx(9.0 + truth[3, 3], rel=1e-5)
    assert out.variance[29, 39] == pytest.approx(36.0 + truth[29, 39], rel=1e-5)
    assert out.applied == ("overscan", "4 amplifiers", "trim", "gain")
    saturated = (out.dq & np.uint32(4)) != 0
    assert saturated.any()
    assert not saturated[15:].any()
    assert not saturated[:, :20].any()


def test_a_master_frame_fits_amplifiers_whole_or_trimmed():
    raw, truth = quadrants()
    trimmed = np.random.default_rng(6).normal(0, 2, (NY, NX)).astype(np.float32)
    whole = np.full(raw.data.shape, 7.0, np.float32)
    for amplifier in raw.amplifiers:
        whole[amplifier.data] = trimmed[amplifier.place]
    first, second = (reduce_readout(replace(raw, bias=frame), CONFIG) for frame in (trimmed, whole))
    assert (first.data == second.data).all()
    assert first.data != pytest.approx(truth)


def test_amplifiers_that_do_not_tile_the_detector_are_refused():
    raw, _ = quadrants()
    with pytest.raises(ImagingError, match="the 3 amplifiers leave 300 pixels of 40 x 30 uncovered and read 0 twice"):
        reduce_readout(replace(raw, amplifiers=raw.amplifiers[1:]), CONFIG)
    far = replace(raw.amplifiers[0], data=(slice(0, 15), slice(90, 110)))
    with pytest.raises(ImagingError, match="a section of amplifier 'a0' leaves the frame of 56 x 30"):
        reduce_readout(replace(raw, amplifiers=(far, *raw.amplifiers[1:])), CONFIG)
    thin = replace(raw.amplifiers[0], data=(slice(0, 15), slice(0, 10)))
    with pytest.raises(ImagingError, match="amplifier 'a0' reads 10 x 15 pixels into 20 x 15"):
        reduce_readout(replace(raw, amplifiers=(thin, *raw.amplifiers[1:])), CONFIG)


def test_amplifiers_of_the_configuration_are_packed():
    entries = tuple(
        AmplifierConfig(name=name, data=data, overscan=over, gain=2.0, read_noise=None, saturation=None)
        for name, data, over in (("left", "[1:20,1:30]", "[21:28,1:30]"), ("right", "[29:48,1:30]", None))
    )
    left, right = configured_amplifiers((NY, NX + WIDE), replace(CONFIG, amplifiers=entries))
    assert (left.place, right.place) == ((slice(0, 30), slice(0, 20)), (slice(0, 30), slice(20, 40)))
    assert left.overscan == (slice(0, 30), slice(20, 28))
    assert (right.gain, right.overscan) == (2.0, None)
    assert np.isnan(right.read_noise)


def test_counts_are_made_linear():
    raw = Readout(np.full((NY, NX), 600.0, np.float32), 1.0, 3.0, 6e4, bias=np.full((NY, NX), 500.0, np.float32))
    out = reduce_readout(raw, replace(CONFIG, linearity=(1e-4, 1e-7)))
    assert out.data == pytest.approx(100.0 * (1 + 1e-2 + 1e-3))


def test_a_bleed_trail_is_followed_to_where_its_charge_ends_and_holes_are_filled():
    rng = np.random.default_rng(7)
    data = rng.normal(100.0, 5.0, (120, 60)).astype(np.float32)
    data[50:62, 30:33] = 60000.0
    data[55, 31] = 100.0  # the converter has wrapped round
    data[62:90, 31] += np.linspace(20000, 60, 28)
    data[30:50, 31] += 300.0
    out = saturation_flags(data, 60000.0, CONFIG)
    bleeds, saturated = (out & np.uint32(8)) != 0, (out & np.uint32(4)) != 0
    assert saturated[55, 31]
    assert bleeds[29:90, 31].all()
    assert not bleeds[:24, :].any()
    assert not bleeds[98:, :].any()
    assert not bleeds[:, :28].any()
    assert not bleeds[:, 35:].any()
    assert (out == saturation_flags(data.T, 60000.0, replace(CONFIG, bleed_along="rows")).T).all()
    assert (saturation_flags(data, np.where(np.arange(60) < 60, 60000.0, np.nan) * np.ones((120, 1)), CONFIG) == out).all()
