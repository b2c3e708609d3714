import re

import matplotlib
import numpy as np
import pandas as pd
import pytest

from astrid.evaluation import figures, gallery, report
from astrid.evaluation.album import one_of_each
from astrid.evaluation.metrics import Estimate, make_rows
from astrid.evaluation.slices import COLUMNS
from astrid.evaluation.style import png_bytes
from astrid.evaluation.threshold import Threshold

NAN = float("nan")


def inputs(**changes):
    metrics = {
        "aucpr": Estimate(0.981, 0.97, 0.99),
        "positive_fraction": Estimate(0.2, 0.18, 0.22),
        "recall": Estimate(0.99, 0.98, 1.0),
        "precision": Estimate(NAN, reason="no row reaches the threshold"),
        "fnr_at_fpr_0p5pct": Estimate(0.1, 0.05, 0.2),
        "precision_at_prevalence": Estimate(0.3, 0.2, 0.4),
        "ece": Estimate(0.02, 0.01, 0.03),
    }
    slices = pd.DataFrame([("filter", "<r>", "aucpr", NAN, NAN, NAN, 4, 0, 4, 4, "no real row")], columns=list(COLUMNS))
    values = {
        "model": "astrid_cnn",
        "surveys": ["deep", "wide"],
        "split": "temporal",
        "label_sources": {"truth": 30},
        "parts": pd.DataFrame({"part": ["test"], "rows": [1200], "real": [200], "bogus": [1000], "events": [700]}),
        "metrics": metrics,
        "validation": metrics,
        "baseline": {},
        "gain": Estimate(0.05, 0.02, 0.08),
        "threshold": Threshold(0.42, 0.99, 0.99, 0.95, False, 40, 90, "A recall of 0.99 could not be guaranteed."),
        "calibration": {"method": "platt"},
        "slices": slices,
        "pictures": [
            report.Picture(key, f"figures/{key}.png", "Precision", "About it", "wide") for key in ("ranking", "operating", "slices")
        ],
        "lineage": {"Digests": {"triplets": "ab12"}},
        "prevalence": 0.01,
        "interval": 0.95,
        "replicates": 500,
    }
    return report.ReportInputs(**{**values, **changes})


def test_page_holds_numbers_figures_notes_and_lineage():
    page = report.render(report.build_context(inputs()))
    for text in ("0.981", "0.970 to 0.990", 'src="figures/ranking.png"', "simulated data", "could not be guaranteed", "read once", "ab12"):
        assert text in page
    assert "no row reaches the threshold" in page
    assert "False-negative rate at 0.5 % false positives" in page
    assert "AUCPR +0.050" in page
    assert "better than a random forest" in page


def test_page_is_self_contained_and_escapes_what_it_is_given():
    page = report.render(report.build_context(inputs()))
    assert not re.search(r'(?:src|href)="(?:https?:)?//', page)
    assert "<script" not in page
    assert "&lt;r&gt;" in page
    assert "<r>" not in page


def test_real_labels_are_not_called_simulated():
    page = report.render(report.build_context(inputs(label_sources={"human": 12, "injection": 30})))
    assert "simulated data" not in page
    assert "human 12, injection 30" in page
    assert "simulated transients in real images" in page


@pytest.mark.parametrize(("value", "text"), [(0.98123, "0.981"), (0.0, "0.000"), (0.00123, "0.0012"), (NAN, "–"), (12.5, "12.500")])
def test_numbers_are_short(value, text):
    assert report.number(value) == text


def size_of(png):
    assert png.startswith(b"\x89PNG")
    return int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")


def test_figures_have_a_sensible_size_and_the_same_bytes_twice():
    rng = np.random.default_rng(0)
    rows = make_rows(rng.integers(0, 2, 200), rng.random(200), np.arange(200))
    before = dict(matplotlib.rcParams)
    images = [png_bytes(figures.score_histogram(rows, 0.5)) for _ in range(2)]
    assert images[0] == images[1]
    assert dict(matplotlib.rcParams) == before
    width, height = size_of(images[0])
    assert 600 <= width <= 2000
    assert 400 <= height <= 2000


def test_reliability_bins_count_every_row():
    rows = make_rows([0, 1, 1, 0], [0.05, 0.95, 1.0, 0.95], np.arange(4))
    frame = figures.reliability_frame(rows, 10)
    assert frame.rows.sum() == 4
    assert frame.observed.iloc[-1] == pytest.approx(2 / 3)
    assert np.isnan(frame.observed.iloc[4])


def test_quality_panels_skip_what_is_not_measured():
    pairs = pd.DataFrame({"survey": ["a", "b"], "q_registration_rms_px": [0.05, 0.2], "q_overlap": [1.0, 0.9], "q_score_std": [NAN, NAN]})
    panels = figures.quality_panels(pairs)
    assert [panel[0] for panel in panels] == ["q_registration_rms_px", "q_overlap"]
    assert size_of(png_bytes(figures.quality(pairs, panels)))[0] > 800


def test_a_slice_that_is_not_defined_is_named_without_a_bar():
    line = ("filter", "r", "aucpr", NAN, NAN, NAN, 4, 0, 4, 4, "no real row")
    figure = figures.slice_bars(pd.DataFrame([line], columns=list(COLUMNS)), "aucpr", "AUCPR", ["filter"])
    axes = figure.axes[0]
    assert not axes.patches
    assert "not defined: no real row" in [text.get_text() for text in axes.texts]


def test_triplets_share_a_stretch_and_show_masked_pixels():
    stamps = np.random.default_rng(1).normal(0, 1, (3, 63, 63)).astype(np.float32)
    stamps[0, 30, 30] = 500
    stamps[2, :5] = np.nan
    image = gallery.triplet_image(stamps)
    assert image.shape == (63, 3 * 63 + 4, 3)
    assert np.allclose(image[2, -1], (0.80, 0.82, 0.85))
    assert image[30, 30].min() > 0.99
    assert np.isfinite(gallery.triplet_image(np.full((3, 63, 63), np.nan, np.float32))).all()
    assert np.isfinite(gallery.triplet_image(np.zeros((3, 63, 63), np.float32))).all()


def test_gallery_grows_with_its_examples():
    stamps = np.random.default_rng(1).normal(0, 1, (3, 63, 63)).astype(np.float32)
    small, large = (size_of(png_bytes(gallery.gallery([gallery.Example(stamps, "a", "b")] * count))) for count in (3, 9))
    assert small[0] == large[0]
    assert large[1] == pytest.approx(3 * small[1], rel=0.02)


def test_one_of_each_kind_takes_the_kinds_in_turn():
    table = pd.DataFrame({"kind": ["a", "a", "a", "b", "c"]})
    assert one_of_each(table, np.array([True, True, True, True, False]), 3) == [0, 3, 1]
