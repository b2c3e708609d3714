import subprocess
import sys

import numpy as np
import pytest

from astrid.core.errors import DataSetError
from astrid.evaluation.calibration import Calibration, apply_calibration, fit_calibration, logit


def distorted(count=40_000, *, slope=0.5, bias=-1.0):
    """Raw scores whose true probability is sigmoid(slope * logit(raw) + bias)."""
    rng = np.random.default_rng(3)
    raw = 1 / (1 + np.exp(-rng.normal(0, 3, count)))
    true = 1 / (1 + np.exp(-(slope * logit(raw) + bias)))
    return raw, true, (rng.random(count) < true).astype(int)


def test_platt_recovers_a_known_distortion():
    raw, true, labels = distorted()
    fitted = fit_calibration(raw, labels, "platt")
    assert fitted.slope == pytest.approx(0.5, abs=0.02)
    assert fitted.bias == pytest.approx(-1.0, abs=0.04)
    assert np.abs(fitted.apply(raw) - true).max() < 0.01


def test_isotonic_recovers_a_known_distortion():
    raw, true, labels = distorted()
    fitted = fit_calibration(raw, labels, "isotonic")
    assert np.abs(fitted.apply(raw) - true).mean() < 0.015
    assert (np.diff(fitted.apply(np.linspace(0, 1, 101))) >= 0).all()


def test_perfect_separation_gives_finite_ordered_probabilities():
    raw = np.r_[np.linspace(0.0, 0.2, 20), np.linspace(0.8, 1.0, 20)]
    fitted = fit_calibration(raw, np.repeat([0, 1], 20), "platt")
    assert np.isfinite([fitted.slope, fitted.bias]).all()
    assert (np.diff(fitted.apply(raw)) > 0).all()
    assert fitted.apply(raw).min() > 0
    assert fitted.apply(raw).max() < 1


@pytest.mark.parametrize("method", ["platt", "isotonic", "none"])
def test_dictionary_round_trip_is_exact(method):
    raw, _, labels = distorted(500)
    fitted = fit_calibration(raw, labels, method)
    grid = np.array([0.0, 1e-9, 0.2, 0.5, 1.0, np.nan])
    again = apply_calibration(fitted.to_dict(), grid)
    np.testing.assert_array_equal(again, fitted.apply(grid))
    assert np.isnan(again[-1])
    assert np.isfinite(again[:-1]).all()


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({"method": "beta"}, "'beta' is not one of platt"),
        ({"method": "platt", "slope": 1.0}, "lacks 'bias'"),
        ({"method": "isotonic", "x": [0.1], "y": []}, "1 positions and 0 values"),
    ],
)
def test_broken_descriptions_are_refused(content, match):
    with pytest.raises(DataSetError, match=match):
        Calibration.from_dict(content)


@pytest.mark.parametrize(
    ("scores", "labels", "match"),
    [
        ([0.5, 0.6], [1, 1], "2 real and 0 bogus"),
        ([0.5, 0.6], [1], "one label a score"),
        ([0.9, 0.8, 0.1, 0.2], [0, 0, 1, 1], "higher scores mean bogus"),
    ],
)
def test_impossible_fits_are_refused(scores, labels, match):
    with pytest.raises(DataSetError, match=match):
        fit_calibration(scores, labels, "platt")


def test_serving_gets_the_calibration_without_heavy_imports():
    heavy = ("sklearn", "torch", "scipy", "pandas", "matplotlib")
    code = f"import sys, astrid.evaluation.calibration; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
