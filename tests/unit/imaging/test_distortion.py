from __future__ import annotations

import numpy as np
import pytest

from astrid.imaging.alignment.distortion import Transform, excess, fit_polynomial, monomials, scatter_field, significantly_better

CENTRE = np.array([500.0, 500.0])
SHAPE = (1000, 1000)


def _stars(rng, n=200, noise=0.03):
    source = rng.uniform(0, 1000, (n, 2))
    return source, noise * rng.normal(size=(n, 2)), np.full(n, 1.0 / noise**2)


def test_monomials_are_all_there():
    assert len(monomials(np.zeros(3), np.zeros(3), 1)) == 0
    terms = monomials(np.array([2.0]), np.array([3.0]), 3)[:, 0]
    assert sorted(terms) == [4.0, 6.0, 8.0, 9.0, 12.0, 18.0, 27.0]


@pytest.mark.parametrize("degree", [1, 2, 3, 4])
def test_a_polynomial_is_recovered(degree):
    rng = np.random.default_rng(degree)
    source, _, weight = _stars(rng)
    truth = fit_polynomial(source, source + rng.normal(size=source.shape), weight, CENTRE, degree)
    fitted = fit_polynomial(source, truth.points(source), weight, CENTRE, degree)
    np.testing.assert_allclose(fitted.points(source), truth.points(source), atol=1e-8)


def test_beyond_the_stars_it_goes_on_as_an_affine():
    rng = np.random.default_rng(5)
    source, noise, weight = _stars(rng)
    d = (source - CENTRE) / 500.0
    fit = fit_polynomial(source, source + 3.0 * d * np.sum(d**2, axis=1, keepdims=True) + noise, weight, CENTRE, 3)
    far = np.array([[20_000.0, -15_000.0]])
    affine = CENTRE + (far - CENTRE) @ fit.matrix.T + fit.shift
    assert np.abs(fit.points(far) - affine).max() < 10.0
    np.testing.assert_allclose(fit.matrix, np.eye(2), atol=0.02)


def test_noise_is_not_fitted():
    """At a level of 2 %, some 2 % of pure noise passes: 400 draws, 8 expected, and a binomial chance below 1e-4 of 22."""
    passed = 0
    for seed in range(400):
        source, noise, weight = _stars(np.random.default_rng(seed), n=60)
        fits = [fit_polynomial(source, source + noise, weight, CENTRE, degree) for degree in (1, 2)]
        passed += significantly_better(source, source + noise, weight, *fits, 0.02)
    assert 0 < passed < 22


def test_a_distortion_is_told_from_noise():
    source, noise, weight = _stars(np.random.default_rng(7))
    u = (source - CENTRE) / 500.0
    target = source + noise + 0.05 * np.c_[u[:, 0] ** 2, u[:, 0] * u[:, 1]]
    fits = [fit_polynomial(source, target, weight, CENTRE, degree) for degree in (1, 2, 3)]
    assert significantly_better(source, target, weight, fits[0], fits[1], 1e-3)
    assert not significantly_better(source, target, weight, fits[1], fits[2], 1e-3)


def test_too_few_stars_show_nothing():
    source, noise, weight = _stars(np.random.default_rng(1), n=6)
    fits = [fit_polynomial(source, source + noise, weight, CENTRE, degree) for degree in (1, 2)]
    assert not significantly_better(source, source + noise, weight, *fits, 1e-3)


def test_the_excess_is_what_the_errors_leave():
    rng = np.random.default_rng(3)
    error = np.full(4000, 0.03)
    assert excess(np.hypot(0.03, 0.04) * rng.normal(size=4000), error) == pytest.approx(0.04, rel=0.05)
    assert excess(0.02 * rng.normal(size=4000), error) == 0.0
    assert excess(np.zeros(1), error[:1]) == 0.0


def _field(rng, sigma_right, n=500):
    where = rng.uniform(0, 1000, (n, 2))
    sigma = np.where(where[:, 0] > 500, sigma_right, 0.02)[:, None]
    error = np.full(n, 0.02)
    residual = np.hypot(sigma, 0.02) * rng.normal(size=(n, 2))
    whole = tuple(excess(residual[:, axis], error) for axis in (0, 1))
    return scatter_field(SHAPE, fit_polynomial(where, where, np.ones(n), CENTRE, 1), where, residual, error, whole, 1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_scatter_follows_the_place_where_it_varies(seed):
    field = _field(np.random.default_rng(seed), 0.12)
    left, right = field.at(np.array([150.0, 850.0]), np.array([500.0, 500.0]))[0]
    assert left < 0.045
    assert right == pytest.approx(0.12, rel=0.3)


def test_an_even_scatter_stays_one_number():
    field = _field(np.random.default_rng(11), 0.02)
    assert max(np.ptp(plane) / plane.max() for plane in field.sigma) < 0.1  # the error of the fit alone varies


def test_the_error_of_the_fit_grows_to_the_corners():
    rng = np.random.default_rng(4)
    where = rng.uniform(0, 1000, (60, 2))
    error = np.full(60, 0.05)
    field = scatter_field(SHAPE, fit_polynomial(where, where, np.ones(60), CENTRE, 1), where, np.zeros((60, 2)), error, (0.0, 0.0), 1e-3)
    sx, _ = field.at(np.array([500.0, 0.0]), np.array([500.0, 0.0]))
    assert sx[0] == pytest.approx(0.05 / np.sqrt(60), rel=0.2)
    assert sx[1] > 1.5 * sx[0]
    assert field.at(np.zeros((3, 2)), np.zeros((3, 2)))[1].shape == (3, 2)


def test_no_terms_are_an_affine_map():
    turn = Transform(np.array([[0.0, -1.0], [1.0, 0.0]]), np.array([1.0, 2.0]), CENTRE)
    np.testing.assert_allclose(turn.points(np.array([[510.0, 500.0]])), [[501.0, 512.0]])
