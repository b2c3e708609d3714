from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from astrid.imaging.quality import PairQuality, blank_sky, gate, score_statistics, still_sky


@pytest.fixture
def good():
    values = {field.name: {"str": "stars", "int": 50, "bool": False}.get(field.type, 1.0) for field in dataclasses.fields(PairQuality)}
    values |= {"registration_rms_px": 0.05, "flux_scatter": 0.01, "masked_fraction": 0.1, "score_tail": 1e-6}
    return PairQuality(**values)


def test_a_good_pair_has_no_reason(good, difference_config):
    assert gate(good, difference_config.gate) == []


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("registration_rms_px", 0.9, "registration RMS in px 0.9 is above"),
        ("n_matched", 1, "matched stars 1 are fewer than"),
        ("fwhm_science", 9.0, "PSF width ratio 9 is above"),
        ("flux_scatter", 0.5, "relative scatter of the flux ratio 0.5 is above"),
        ("score_std_raw", 5.0, "score width on blank sky 5 is above"),
        ("score_std_raw", 0.1, "score width on blank sky 0.1 is below"),
        ("masked_fraction", 0.99, "masked fraction 0.99 is above"),
        ("score_tail", 0.01, "fraction of the blank sky beyond 5 sigma 0.01 is above"),
        ("star_score", 9.0, "median score left on bright stars 9 is above"),
    ],
)
def test_each_limit_gives_its_reason(good, difference_config, key, value, reason):
    (sentence,) = gate(dataclasses.replace(good, **{key: value}), difference_config.gate)
    assert sentence.startswith(reason)


def test_what_could_not_be_measured_is_no_reason(good, difference_config):
    unknown = dataclasses.replace(good, registration_rms_px=float("nan"), flux_scatter=float("nan"), score_std_raw=float("nan"))
    assert gate(unknown, difference_config.gate) == []


def test_scalars_are_prefixed_columns(good):
    scalars = good.scalars()
    assert set(scalars) == {f"q_{field.name}" for field in dataclasses.fields(PairQuality)}


def test_the_width_withstands_a_few_sources():
    score = np.random.default_rng(1).normal(1.0, 2.0, (200, 200)).astype(np.float32)
    score[:10, :10] = 1000
    everywhere = np.ones(score.size, bool)
    statistics = score_statistics(score.ravel(), everywhere)
    assert statistics.std == pytest.approx(2.0, rel=0.02)
    assert statistics.mean == pytest.approx(1.0, abs=0.05)
    assert np.isnan(score_statistics(score[0], everywhere[:200]).std)  # 200 values say nothing about the width


def test_blank_sky_leaves_out_sources():
    plane = np.ones((4, 4), np.float32)
    bright, noisy = plane.copy() * 0, plane.copy()
    bright[0, 0], noisy[1, 1] = 50, 2
    usable = np.ones((4, 4), bool)
    usable[2, 2] = False
    blank = blank_sky(noisy, bright, usable)
    assert blank.sum() == 13
    assert not blank[[0, 1, 2], [0, 1, 2]].any()


def test_still_sky_leaves_out_the_skirts_of_transients():
    score = np.random.default_rng(2).normal(size=(200, 200)).astype(np.float32)
    y, x = np.mgrid[:200, :200]
    for place in range(20, 200, 40):
        score += 40 * np.exp(-((y - place) ** 2 + (x - place) ** 2) / (2 * 3.0**2)).astype(np.float32)
    blank = np.ones(score.shape, bool)
    still = still_sky(score, blank, 4.0)
    assert not still[20, 20]
    assert not still[20, 27]
    assert still.mean() > 0.9
    assert score[still].std() == pytest.approx(1.0, abs=0.015)
    quiet = np.random.default_rng(3).normal(size=(200, 200)).astype(np.float32)
    assert still_sky(quiet, blank, 4.0).all()
    assert still_sky(3 * quiet, blank, 4.0).mean() > 0.999  # a wrong variance plane is seen in the width, not taken for changes
