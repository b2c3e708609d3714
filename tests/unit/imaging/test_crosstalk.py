"""The share of another amplifier's charge: measured with its error where it is planted, none where it is not, flagged where it shows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from astrid.config.schema.calibrate import CrosstalkConfig
from astrid.core.archive import Amplifier
from astrid.core.dq import DQ
from astrid.imaging.detector.crosstalk import channels, flag_crosstalk, measure_crosstalk

NOISE, FULL = 15.0, 8e4
SHAPE = (256, 320)


@pytest.fixture(scope="module")
def cfg() -> CrosstalkConfig:
    return CrosstalkConfig(
        layout="header", aggressor_sigma=30.0, source_sigma=3.0, level_px=16.0, max_share=0.01, sigma=4.0, flag_sigma=0.5
    )


def sky(seed: int, stars: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Stars of which the brightest are full, and faint ones that no mask finds: light (electrons) and its noise."""
    rng = np.random.default_rng(seed)
    flux = np.concatenate([10 ** rng.uniform(3.5, 6.6, stars), 10 ** rng.uniform(1.5, 3.5, 5 * stars)])
    light = np.zeros(SHAPE)
    np.add.at(light, (rng.integers(0, SHAPE[0], len(flux)), rng.integers(0, SHAPE[1], len(flux))), flux)
    light = np.minimum(ndimage.gaussian_filter(light, 1.5), FULL)
    sigma = np.sqrt(NOISE**2 + light)
    return light + rng.normal(size=SHAPE) * sigma, sigma


def nothing(shape: tuple[int, int] = SHAPE) -> np.ndarray:
    return np.zeros(shape, np.uint32)


@pytest.mark.parametrize("share", [0.0, 3e-4, 2e-3])
def test_a_planted_share_is_measured_within_its_error(cfg: CrosstalkConfig, share: float) -> None:
    parts = channels(SHAPE, "1 2", (), cfg)
    pulls = []
    for seed in range(12):
        charge, sigma = sky(seed)
        charge = charge + share * charge[:, ::-1]
        found = measure_crosstalk(charge, sigma, np.zeros(SHAPE, bool), parts, cfg)
        assert [(one.aggressor.name, one.victim.name) for one in found] == [("1", "2"), ("2", "1")]
        pulls += [(one.share - share) / one.error for one in found]
        assert all(one.error < 3e-4 for one in found)
    assert np.abs(pulls).max() < 4.0
    assert 0.5 < np.std(pulls) < 1.6
    assert abs(np.mean(pulls)) < 0.8


def test_flags_lie_where_the_share_shows_and_nowhere_else(cfg: CrosstalkConfig) -> None:
    charge, sigma = sky(3)
    expected = 2e-3 * charge[:, ::-1]
    found = flag_crosstalk(charge + expected, sigma, nothing(), channels(SHAPE, "1 2", (), cfg), cfg)
    flagged = found.flags != 0
    assert set(np.unique(found.flags)) == {0, int(DQ.CROSSTALK)}
    assert flagged[expected > 0.7 * sigma].all()
    assert not flagged[expected < 0.3 * sigma].any()
    assert found.numbers["crosstalk_1_2"] == pytest.approx(2e-3, abs=4 * found.numbers["crosstalk_error_1_2"])


@pytest.mark.parametrize("share", [0.0, 1e-5])
def test_a_share_within_its_error_flags_nothing(cfg: CrosstalkConfig, share: float) -> None:
    charge, sigma = sky(5)
    found = flag_crosstalk(charge + share * charge[:, ::-1], sigma, nothing(), channels(SHAPE, "1 2", (), cfg), cfg)
    assert not found.flags.any()
    assert found.numbers["crosstalk_error_1_2"] > 0


def test_full_stars_alone_tell_the_share(cfg: CrosstalkConfig) -> None:
    """The bits that saturation sets take pixels from the victims only."""
    rng = np.random.default_rng(2)
    light = np.zeros(SHAPE)
    for y, x in ((40, 30), (90, 60), (150, 110), (210, 140), (60, 200), (120, 260), (200, 290)):
        light[y - 5 : y + 6, x - 3 : x + 4] = FULL
    sigma = np.sqrt(NOISE**2 + light)
    dq = np.where(light > 0, np.uint32(DQ.SATURATED), np.uint32(0))
    charge = light + rng.normal(size=SHAPE) * sigma
    found = flag_crosstalk(charge + 5e-4 * charge[:, ::-1], sigma, dq, channels(SHAPE, "1 2", (), cfg), cfg)
    for pair in ("1_2", "2_1"):
        assert found.numbers[f"crosstalk_{pair}"] == pytest.approx(5e-4, abs=4 * found.numbers[f"crosstalk_error_{pair}"])
    assert (found.flags != 0)[light[:, ::-1] > 0].all()


def test_of_four_amplifiers_only_the_coupled_pair_shows(cfg: CrosstalkConfig) -> None:
    charge, sigma = sky(7, stars=160)
    coupled = charge.copy()  # of amplifier 1, at the lower left, in 4, at the upper right
    middle = (SHAPE[0] // 2, SHAPE[1] // 2)
    coupled[middle[0] :, middle[1] :] += 2e-3 * charge[: middle[0], : middle[1]][::-1, ::-1]
    parts = channels(SHAPE, "2 2", (), cfg)
    assert [part.name for part in parts] == ["1", "2", "3", "4"]
    found = measure_crosstalk(coupled, sigma, np.zeros(SHAPE, bool), parts, cfg)
    assert len(found) == 12
    believed = [(one.aggressor.name, one.victim.name) for one in found if one.share > cfg.sigma * one.error]
    assert believed == [("1", "4")]
    flags = flag_crosstalk(coupled, sigma, nothing(), parts, cfg).flags
    assert flags.any()
    assert not flags[: middle[0]].any()
    assert not flags[:, : middle[1]].any()


def test_without_bright_pixels_nothing_is_measured(cfg: CrosstalkConfig) -> None:
    charge = np.random.default_rng(0).normal(size=SHAPE) * NOISE
    assert measure_crosstalk(charge, np.full(SHAPE, NOISE), np.zeros(SHAPE, bool), channels(SHAPE, "1 2", (), cfg), cfg) == ()


def test_the_layout_is_read_or_not_known(cfg: CrosstalkConfig) -> None:
    left = Amplifier("A", (slice(0, 10), slice(4, 10)), (slice(0, 10), slice(0, 6)))
    right = Amplifier("B", (slice(0, 10), slice(10, 16)), (slice(0, 10), slice(6, 12)))
    third = Amplifier("C", (slice(0, 10), slice(16, 22)), (slice(0, 10), slice(12, 18)))
    narrow = replace(right, place=(slice(0, 10), slice(6, 10)))
    assert len(channels((10, 12), "", (left, right), cfg)) == 2
    for amplifiers in ((), (left,), (left, right, third), (left, narrow)):
        assert channels((10, 12), "", amplifiers, cfg) == ()
    assert channels((10, 12), "1 1", (), cfg) == ()
    assert channels((10, 12), "1 4", (), cfg) == ()
    assert channels((10, 12), "1 2", (left, right), replace(cfg, layout="none")) == ()
    (one, two) = channels((10, 13), "", (), replace(cfg, layout="mirrored"))
    row = np.arange(13)[None, :].repeat(10, axis=0)
    assert one.read(row)[0].tolist() == [0, 1, 2, 3, 4, 5]
    assert two.read(row)[0].tolist() == [12, 11, 10, 9, 8, 7]  # the middle column of an odd number is read by neither
    low, high = channels((10, 12), "2 1", (), cfg)
    assert low.read(np.arange(10)[:, None])[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert high.read(np.arange(10)[:, None])[:, 0].tolist() == [9, 8, 7, 6, 5]
