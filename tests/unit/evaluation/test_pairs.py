"""The report of subtracted pairs: what is measured on a product, which pairs get a page, what the table says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from astrid.core.dq import DQ
from astrid.core.records import Difference, ExposureInfo, Psf
from astrid.evaluation.pairpage import binned, pair_page, quantity, radial_profile
from astrid.evaluation.pairs import chosen_pairs, closeness, fates, marked, overview, pairs_context
from astrid.evaluation.report import render_pairs
from astrid.evaluation.residuals import blank_score, bright_stars
from astrid.evaluation.style import png_bytes

SIZE, SIGMA, NOISE = 220, 1.3, 5.0
LIMITS = {
    "fatal": False,
    "max_registration_rms_px": 0.3,
    "min_matched": 5,
    "max_fwhm_ratio": 3.0,
    "min_score_std": 0.7,
    "max_score_std": 2.0,
}


def gaussian(x: float, y: float, size: int = SIZE, sigma: float = SIGMA) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size]
    return np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2)) / (2 * np.pi * sigma**2)


def product(*, shift: tuple[float, float] = (0.0, 0.0), width: float = 1.0, unexplained: float = 0.0) -> tuple[Difference, np.ndarray]:
    """A difference product of a field of stars that moved by `shift` px, whose score has this width; and the stars' x, y, flux."""
    rng = np.random.default_rng(7)
    places = np.array([(x, y) for x in range(20, SIZE - 10, 30) for y in range(20, SIZE - 10, 30)]) + rng.uniform(-3, 3, (49, 2))
    stars = np.column_stack([places, rng.uniform(5e3, 4e4, 49)])
    scene = sum(flux * gaussian(x, y) for x, y, flux in stars)
    moved = sum(flux * (1 + unexplained) * gaussian(x + shift[0], y + shift[1]) for x, y, flux in stars)
    stamp = gaussian(7, 7, 15)
    psf = Psf((stamp / stamp.sum()).astype(np.float32), "given", fwhm=2.3548 * SIGMA)
    noise = NOISE * rng.normal(size=scene.shape)
    left = moved - scene + NOISE * rng.normal(size=scene.shape)
    score = ndimage.gaussian_filter(rng.normal(size=scene.shape), 1.0)
    score *= width / score.std()
    error = NOISE / np.sqrt(np.sum(stamp**2)) * np.sqrt(1 + scene / 500)
    planes = (
        moved + noise,
        scene + NOISE * rng.normal(size=scene.shape),
        left,
        score,
        ndimage.correlate(left, psf.stamp) / np.sum(psf.stamp**2),
        error,
    )
    info = ExposureInfo("new", "s", "i", "d", "r", 59000.0, 30.0)
    made = Difference(
        *(plane.astype(np.float32) for plane in planes),
        dq=np.zeros(scene.shape, np.uint32),
        psf_science=psf,
        psf_reference=psf,
        psf_difference=psf,
        wcs=None,  # type: ignore[arg-type]
        info=info,
        reference_info=replace(info, exposure_id="old"),
        quality={"q_score_std": width, "q_n_matched": 49, "q_reasons": "", "q_flux_method": "stars", "q_score_renormalised": True},
    )
    return made, stars


@pytest.mark.parametrize("width", [1.0, 1.3])
def test_the_width_on_blank_sky_is_that_of_the_noise(width: float) -> None:
    found = blank_score(product(width=width)[0])
    assert found.width == pytest.approx(width, rel=0.03)
    assert found.counts.sum() == found.pixels > 10_000


def test_masks_sources_and_known_transients_are_no_blank_sky() -> None:
    made, stars = product()
    x, y = (round(value) for value in stars[0, :2])
    loud = np.zeros_like(made.score)
    loud[y - 2 : y + 3, x - 2 : x + 3] = 7.0  # a badly subtracted star
    loud[100:104, 36:40] = 7.0
    loud[160:162, 50:52] = 7.0
    dq, truth = made.dq.copy(), np.zeros_like(made.dq)
    dq[100:104, 36:40] = DQ.SATURATED
    truth[160, 50] = 1
    assert blank_score(replace(made, score=loud, dq=dq, truth=truth)).counts[-12:].sum() == 0
    nothing = blank_score(replace(made, dq=np.full_like(made.dq, int(DQ.SATURATED))))
    assert (nothing.pixels, np.isnan(nothing.width)) == (0, True)


def test_the_shift_that_a_difference_shows_is_the_one_that_was_made() -> None:
    found = bright_stars(product(shift=(0.06, -0.03))[0])
    assert len(found) > 35
    assert np.median(found["dx"]) == pytest.approx(0.06, abs=0.006)
    assert np.median(found["dy"]) == pytest.approx(-0.03, abs=0.006)
    pulls = np.concatenate([(found["dx"] - 0.06) / found["error"], (found["dy"] + 0.03) / found["error"]])
    assert 0.5 < 1.4826 * np.median(np.abs(pulls)) < 1.2  # the error includes the stars' own photons, which these planes lack


def test_the_flux_that_is_left_is_the_one_that_was_made() -> None:
    made, stars = product(unexplained=0.05)
    found = bright_stars(made)
    assert np.median(found["left"] / found["flux"]) == pytest.approx(0.05, abs=0.01)
    nearest = np.hypot(*(found[["x", "y"]].view("f8").reshape(-1, 9)[:, :2].T - stars[np.argmax(stars[:, 2]), :2, None]))
    assert nearest.min() < 0.05


def test_a_galaxy_and_a_known_transient_are_no_bright_stars() -> None:
    made, stars = product()
    x, y = stars[10, :2]
    truth = np.zeros_like(made.dq)
    truth[round(y), round(x)] = 1
    galaxy = made.science + (4e4 * gaussian(35.0, 35.0, sigma=5.0)).astype(np.float32)
    found = bright_stars(replace(made, truth=truth, science=galaxy))
    assert np.hypot(found["x"] - x, found["y"] - y).min() > 5
    assert np.hypot(found["x"] - 35, found["y"] - 35).min() > 5


def test_binning_keeps_means_extremes_and_holes() -> None:
    plane = np.arange(36, dtype=np.float32).reshape(6, 6)
    plane[:3, 3:] = np.nan
    plane[4, 4] = -99
    assert binned(plane, 3)[0, 0] == plane[:3, :3].mean()
    assert np.isnan(binned(plane, 3)[0, 1])
    assert binned(plane, 3, extreme=True)[1, 1] == -99
    assert np.array_equal(binned(plane, 1), plane, equal_nan=True)


def test_a_radial_profile_falls_from_its_centre() -> None:
    radius, value = radial_profile(gaussian(7, 7, 15).astype(np.float32))
    assert value[0] == pytest.approx(1 / (2 * np.pi * SIGMA**2), rel=1e-5)
    assert (np.diff(value) < 0).all()
    assert radius[3] == pytest.approx(3.0, abs=0.15)


def test_a_page_is_the_same_bytes_again_and_shows_a_large_image_too() -> None:
    made, _ = product()
    first, again = png_bytes(pair_page(made)), png_bytes(pair_page(made))
    assert first == again
    assert first.startswith(b"\x89PNG")
    planes = {
        name: np.tile(getattr(made, name), (4, 4)) for name in ("science", "reference", "difference", "score", "flux", "flux_err", "dq")
    }
    titles = [axes.get_title(loc="left") for axes in pair_page(replace(made, **planes)).axes]
    assert "score, extremes of 2 x 2 px" in titles


def test_a_page_of_a_marked_pair_without_sky_or_star_says_so() -> None:
    made, _ = product()
    nan = np.full_like(made.score, np.nan)
    empty = replace(
        made, dq=np.full_like(made.dq, int(DQ.SATURATED)), difference=nan, flux=nan, flux_err=nan, quality={"q_reasons": "too bad"}
    )
    figure = pair_page(empty)
    words = [text.get_text() for text in figure.texts] + [text.get_text() for axes in figure.axes for text in axes.texts]
    assert {"marked: too bad", "no blank sky", "no bright star"} <= set(words)


@pytest.mark.parametrize(
    ("value", "text"),
    [(True, "yes"), (np.bool_(False), "no"), (12345, "12,345"), (0.123456, "0.1235"), (float("nan"), "–"), ("a" * 30, "a" * 18 + "…")],
)
def test_a_quantity_is_written_for_a_person(value: Any, text: str) -> None:
    assert quantity(value) == text


@pytest.fixture
def table() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "pair_id": ["good", "wide", "marked", "shifted", "refused", "lost"],
            "survey": ["s", "s", "s", "t", "t", "t"],
            "filter": "r",
            "status": ["ok", "ok", "ok", "ok", "refused", "quarantined"],
            "reason": ["", "", "", "", "no <overlap>", "killed"],
            "q_reasons": ["", "", "registration RMS in px 0.33 is above 0.3", "", "", ""],
            "q_registration_rms_px": [0.03, 0.03, 0.33, 0.24, np.nan, np.nan],
            "q_n_matched": [50.0, 50.0, 50.0, 50.0, np.nan, np.nan],
            "q_fwhm_science": [3.0, 3.0, 3.0, 3.0, np.nan, np.nan],
            "q_fwhm_reference": [3.0, 1.5, 3.0, 3.0, np.nan, np.nan],
            "q_score_std_raw": [1.0, 1.0, 1.0, 0.9, np.nan, np.nan],
        }
    )


def test_closeness_is_one_at_a_limit_and_takes_the_worst_figure(table: pd.DataFrame) -> None:
    assert closeness(table, LIMITS) == pytest.approx([0.1, np.log(2) / np.log(3), 1.1, 0.8, 0.0, 0.0])
    narrow = table.assign(q_score_std_raw=0.7, q_registration_rms_px=0.0)
    assert closeness(narrow, LIMITS)[0] == pytest.approx(1.0)
    few = table.assign(q_n_matched=4.0)
    assert closeness(few, LIMITS)[0] == pytest.approx(1.25)


def test_marked_pairs_come_first_and_the_number_is_bounded(table: pd.DataFrame) -> None:
    assert marked(table).tolist() == [False, False, True, False, False, False]
    assert fates(table).tolist() == ["subtracted", "subtracted", "marked", "subtracted", "refused", "quarantined"]
    assert chosen_pairs(table, LIMITS, worst=2, most=10) == ["marked", "shifted", "wide"]
    assert chosen_pairs(table, LIMITS, worst=2, most=2) == ["marked", "shifted"]
    assert chosen_pairs(table, LIMITS, worst=0, most=9) == ["marked"]


def test_the_index_names_every_pair_its_page_and_why(table: pd.DataFrame) -> None:
    html = render_pairs(pairs_context(table, LIMITS, figure="overview.png", pages={"marked": "marked.png"}))
    assert '<a href="marked.png">marked</a>' in html
    assert "registration RMS in px 0.33 is above 0.3" in html
    assert "no &lt;overlap&gt;" in html
    assert html.count("<tr class=") == len(table)
    assert html.count('class="beyond"') == 1
    assert 'data-sort="0.33"' in html


def test_the_overview_stands_with_one_survey_or_without_any_measure(table: pd.DataFrame) -> None:
    assert len(png_bytes(overview(table, LIMITS))) > 10_000
    assert png_bytes(overview(table[["pair_id", "survey", "filter", "status", "reason"]].iloc[:1], LIMITS)).startswith(b"\x89PNG")


def test_the_overview_stands_with_more_surveys_than_there_are_colours(table: pd.DataFrame) -> None:
    many = pd.concat([table.assign(survey=f"survey{number}") for number in range(12)], ignore_index=True)
    labels = [text.get_text() for text in overview(many, LIMITS).axes[0].get_yticklabels()]
    assert labels == ["12 surveys"]
