"""The card tells a person what the model is, plainly: simulated or real, the worst slice first, and the way back to the raw files."""

from __future__ import annotations

import math
from dataclasses import replace

import pandas as pd
import pytest

from astrid.export.folder import ModelFacts, manifest
from astrid.registry.card import DESCRIPTION_CHARACTERS, CardInputs, registry_card, short_card
from astrid.registry.card_facts import limits, slices, training, weakest
from astrid.registry.gates import Gate
from astrid.registry.lineage import RAW, Step
from astrid.registry.markdown import difference, estimate, interval, listed, number, table
from support.registry import BUILT

NAN = math.nan
EVALUATION = {
    "test.aucpr": 0.97,
    "test.aucpr_low": 0.95,
    "test.aucpr_high": 0.98,
    "test.rows": 900.0,
    "test.positive_fraction": 0.6,
    "test.precision_at_prevalence": 0.04,
    "test.false_negative": 5.0,
    "test.false_positive": 1000.0,
}


def row(name, group, metric, value, *, real=50, bogus=40):
    low, high = value - 0.01, value + 0.01
    return {
        "slice": name,
        "group": group,
        "metric": metric,
        "value": value,
        "low": low,
        "high": high,
        "rows": real + bogus,
        "positives": real,
        "negatives": bogus,
    }


SLICES = pd.DataFrame(
    [
        row("survey", "wide", "aucpr", 0.99),
        row("survey", "wide", "fpr", 0.1),
        row("survey", "deep", "aucpr", 0.90),
        row("S/N", "< 6", "aucpr", NAN),
        row("S/N", "6 to 8", "aucpr", 0.8, bogus=3),
        row("S/N", "8 to 12", "aucpr", 0.93),
        row("S/N", "≥ 12", "aucpr", 0.99),
        row("bogus kind", "dipole", "fpr", 0.1),
        row("bogus kind", "ghost", "fpr", 0.7),
        row("bogus kind", "trail", "fpr", 0.9, real=0, bogus=4),
        row("sign", "faded", "aucpr", 0.1),
    ]
)


def rows(survey="deep", source="truth", part="train", label=1, count=10, **changes):
    columns = {"survey": survey, "label_source": source, "label": label, "filter": "r", "snr": 10.0, "pixel_scale": 0.3, "scorable": True}
    frame = pd.DataFrame([columns | changes] * count)
    frame["candidate_id"] = [f"{survey}{part}{label}{at}{changes}" for at in range(count)]
    frame["event_id"], frame["part"] = [f"{survey}{at // 2}" for at in range(count)], part
    return frame


def facts(*frames):
    whole = pd.concat(frames)
    return training(whole.drop(columns=["part"]), whole[["candidate_id", "part"]])


SEEN = (rows(), rows(label=0, snr=-40.0, count=6), rows("wide", part="test", filter="g"), rows(label=-1, part="unused", count=3))


def inputs(**changes):
    graph = {
        "name": "tiny",
        "normalization": "l2.v1",
        "threshold": 0.25,
        "calibration": {"method": "platt", "slope": 2.5, "bias": 0.5},
        "metrics": {},
        "digests": {"training": "key"},
        "parity": {},
        "frameworks": {},
    }
    values = {
        "manifest": manifest(ModelFacts(**graph), b"graph"),
        "gates": [Gate("latency", 1.234, 100.0, True, "1.234 milliseconds")],
        "digests": {"training": "key", "commit": "c"},
        "steps": [Step("export", "models/export", "aa.dir", 3), Step("acquire", RAW, "bb.dir", 12)],
        "built": BUILT,
        "training": facts(*SEEN),
        "evaluation": EVALUATION,
        "point": {"interval": 0.95, "stream_prevalence": 0.01, "choice": {"statement": "A recall of 0.99 was guaranteed."}},
        "split": {"strategy": "cross_survey", "audit": {"leaks": {"event": 0, "copy": 0}}},
        "export": {},
        "slices": SLICES,
        "pictures": ["gallery_missed.png"],
        "versions": {"Python": "3.11"},
    }
    return CardInputs(**values | changes)


def test_what_the_model_learnt_from_is_counted_by_part_label_and_survey():
    found = facts(*SEEN)
    assert found.parts.to_numpy().tolist() == [["train", 10, 6, 0, 16, 5], ["test", 10, 0, 0, 10, 5], ["unused", 0, 0, 3, 3, 2]]
    assert found.by_survey.to_numpy().tolist() == [["deep", 16, 0, 0], ["wide", 0, 0, 10]]
    assert (found.filters, found.snr, found.scale) == (("r",), (10.0, 40.0), (0.3, 0.3))
    assert (found.simulated, found.surveys(), found.surveys("test")) == (True, ["deep"], ["wide"])
    assert facts(rows(), rows(scorable=False)).parts["rows"].tolist() == [10]


@pytest.mark.parametrize(
    ("source", "told", "plain"),
    [
        ("truth", "in simulated exposures of deep", True),
        ("human", "in exposures of deep", False),
        ("injection", "in real exposures with simulated sources of deep", False),
    ],
)
def test_simulated_or_real_is_said_plainly(source, told, plain):
    card = registry_card(inputs(training=facts(rows(source=source), rows(part="test", source=source))))
    assert f"It learnt from 10 labelled detections {told}." in card
    assert ("**Simulated data only.**" in card) == plain
    assert ("It has seen no real exposure." in card) == plain
    assert ("renders the same bytes again" in card) == plain


def test_the_sections_carry_the_numbers():
    card = registry_card(inputs())
    for words in (
        "On 900 test detections it reaches an AUCPR of 0.970 (0.950 to 0.980); a random ranking would have 0.600.",
        "cut by survey: the surveys of the test part take no part in training.",
        "by event and turned or shifted copy. Found: **Nothing**.",
        "| precision in a stream with 1 % real ones | 0.040 | – |",
        "Intervals hold 95 %",
        "Threshold 0.2500",
        "(bias 0.5000, slope 2.5000)",
        "A recall of 0.99 was guaranteed. On test 5 real ones fall below it and 1,000 bogus",
        "| latency | – | 100 | passed | at most 100 milliseconds a triplet. |",
        "![Real test detections that it misses](card/gallery_missed.png)",
        f"Code: commit `{'c' * 40}`, as committed.",
        "| `data/raw` | `acquire` | `bb.dir` | 12 |",
        "To get the 12 raw files back: `git checkout cccccccccccc` and `dvc checkout data/raw`",
        "Made with Python 3.11.",
    ):
        assert words in card, words
    assert "1.234" not in card
    assert "gallery_false_alarms" not in card


def test_leaks_a_dirty_tree_and_a_foreign_lock_are_told():
    leaks = {"strategy": "temporal", "audit": {"leaks": {"event": 2, "copy": 0}}, "doubt": {"wrong_labels": 0.0123, "suspects": 7}}
    card = registry_card(inputs(split=leaks, built=replace(BUILT, dirty=True, lock=2), pictures=[]))
    assert "Found: **2 (event)**." in card
    assert "1.2 % of the labels look wrong; 7 suspects" in card
    assert "with changes that are in no commit" in card
    assert "It names other products than these" in card
    assert "No picture was made." in card
    bare = registry_card(inputs(split={}, built=replace(BUILT, commit=""), steps=[], slices=pd.DataFrame(), evaluation={}, point={}))
    for words in ("The split was not audited.", "Code: in no repository.", "Nothing recorded."):
        assert words in bare
    assert "raw files back" not in bare


def test_slices_begin_with_the_worst_and_the_lead_names_those_with_rows_enough():
    by_survey, by_snr, by_kind = slices(SLICES)
    assert [line[0] for line in by_survey.rows] == ["deep", "wide"]
    assert by_survey.rows[1] == ("wide", "50", "40", "0.990 (0.980 to 1.000)", "–", "0.100 (0.090 to 0.110)")
    assert [line[0] for line in by_snr.rows] == ["6 to 8", "8 to 12", "≥ 12", "< 6"]
    assert [line[0] for line in by_kind.rows] == ["trail", "ghost", "dipole"]
    assert weakest(SLICES) == [
        "survey deep (AUCPR 0.900 (0.890 to 0.910))",
        "S/N 8 to 12 (AUCPR 0.930 (0.920 to 0.940))",
        "bogus ghost (false-positive rate 0.700 (0.690 to 0.710))",
    ]
    assert (slices(pd.DataFrame()), weakest(pd.DataFrame())) == ([], [])


def test_limits_are_those_of_this_model():
    found = limits(inputs().manifest, facts(*SEEN), EVALUATION, SLICES, 0.01)
    assert "The test part is of wide, which training never saw; every survey but deep is new to it." in found
    assert any(line.startswith("Training held S/N 10 to 40 ") and "the filters r;" in line for line in found)
    assert "Fewer than 20 test detections each of trail: their numbers say little." in found
    assert any("60 % real" in line and "where 1 % are real, 4.0 % of those" in line for line in found)
    same = limits(inputs().manifest, facts(rows(), rows(part="test")), {}, pd.DataFrame(), None)
    assert any(line.startswith("Test and training are of the same surveys (deep)") for line in same)
    assert not any("their numbers say little" in line or "stream" in line for line in same)


def target(name, file, loss, snr):
    lines = [{"snr": bin_, "rows": 9, "real": 4, "aucpr_loss": lost, "recall_loss": 0.0} for bin_, lost in snr.items()]
    parity = {
        "aucpr_loss": loss,
        "aucpr_loss_low": -0.00001,
        "aucpr_loss_high": 0.002,
        "recall_loss": 0.0,
        "largest_difference": 0.05,
        "decisions_changed": 3,
        "by_snr": lines,
    }
    return {file: {"file": file, "target": name, "bytes": 1_700_000, "parity": parity}}


def test_targets_show_losses_times_and_one_table_by_snr():
    one = inputs()
    files = target("tflite-int8", "model.int8.tflite", 0.00012, {"< 6": 0.001, "≥ 6": None}) | target(
        "tflite-int8", "model.int8.b8.tflite", 0.5, {}
    )
    ratios = {"tflite-int8": {"file": "model.int8.tflite", "latency_ratio": {"batch_64": 1.5, "batch_1": 1.25}}}
    whole = one.manifest | {"artifacts": one.manifest["artifacts"] | files}
    card = registry_card(inputs(manifest=whole, export={"targets": ratios, "left_out": {"onnx-int8": "it loses 0.1 of AUCPR"}}))
    assert "| `model.int8.tflite` | tflite-int8 | 1.70 | +0.0001 (+0.0000 to +0.0020) | +0.0000 | 0.050 | 3 | 1.25 | 1.50 |" in card
    assert "| `model.int8.b8.tflite` | tflite-int8 | 1.70 | +0.5000 (+0.0000 to +0.0020) | +0.0000 | 0.050 | 3 | – | – |" in card
    assert "| time / float (batch 1) | time / float (batch 64) |" in card
    assert "| < 6 | 9 | 4 | +0.0010 | +0.0000 |" in card
    assert "| ≥ 6 | 9 | 4 | – | +0.0000 |" in card
    assert "- onnx-int8 was left out: it loses 0.1 of AUCPR" in card


def test_the_description_fits_every_store():
    gates = [Gate(f"slice {at}", 1.0, 2.0, True, "x" * 200) for at in range(40)]
    assert len(short_card(inputs(gates=gates))) == DESCRIPTION_CHARACTERS
    assert short_card(inputs()).endswith("Made with Python 3.11.")


def test_numbers_in_words():
    assert [number(value) for value in (None, NAN, 0.12345, 0.0, 1.0, 1e-7, 1234, 1234.0, 0)] == [
        "–",
        "–",
        "0.123",
        "0.000",
        "1.000",
        "1.0e-07",
        "1,234",
        "1,234",
        "0",
    ]
    assert [difference(value) for value in (-0.00001, 0.00123, -0.5, NAN, None)] == ["+0.0000", "+0.0012", "-0.5000", "–", "–"]
    assert (interval(0.1, 0.2), interval(0.1, NAN), interval(None, 0.2)) == ("0.100 to 0.200", "", "")
    assert estimate({"a": 0.5, "a_low": 0.4}, "a") == "0.500"
    assert [listed(names) for names in ([], ["a"], ["a", "b", "c"])] == ["none", "a", "a, b and c"]
    assert table(["a", "b"], [("x|y", "1")]).splitlines() == ["| a | b |", "|---|---:|", "| x\\|y | 1 |"]
