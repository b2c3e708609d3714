from __future__ import annotations

import numpy as np
import pytest
import torch

from astrid.config.schema.integer import IntegerConfig
from astrid.config.schema.model import ModelConfig
from astrid.export import integer, tflite
from astrid.export.quantize import Drawn
from astrid.learning import models

STAMPS = np.random.default_rng(0).uniform(-1, 1, (6, 3, 63, 63)).astype(np.float32)
DRAWN = Drawn(np.arange(6), {"S/N < 10, light any": (100, 6)})
REAL = 1000  # rows of validation
TUNING = {"steps": 3, "batch": 2, "learning_rate": 1e-3, "aucpr_loss": 0.002, "recall_loss": 0.003}


def settings(**changes):
    plane = {"snr_edges": (), "light_edges": (), "share": 0.1, "least": 1}
    whole = {"stamps": 6, "batches": (1, 4), "output": "logit", "plane": plane, "tuning": TUNING, "compiler": {"path": "", "limit": 1.0}}
    return IntegerConfig(**{**whole, **changes})


def build(losses, real=REAL, **changes):
    """Build with a loss function that gives `losses` one after another; how often it was asked, and how many triplets were drawn."""
    torch.manual_seed(0)
    cfg = ModelConfig(name="astrid_cnn", normalization="asinh_int8.v1", width=4, dense=8, conv_dropout=0.0, dropout=0.0)
    given, drawn = iter(losses), []

    def draw(count, rng):
        drawn.append(count)
        return STAMPS[rng.integers(0, len(STAMPS), count)]

    made = integer.build(
        models.build(cfg).eval(),
        cfg.normalization,
        drawn=DRAWN,
        stamps=STAMPS,
        draw=draw,
        loss=lambda scorer: integer.Loss(*next(given), real=real) if scorer(STAMPS).shape == (6,) else None,
        cfg=settings(**changes),
        rng=np.random.default_rng(1),
    )
    return made, drawn


def test_a_file_for_each_size_of_batch_says_what_it_takes_and_gives():
    made, drawn = build([(0.001, 0.0)])
    assert drawn == []
    assert [one.file for one in made.artifacts] == ["model.int8.tflite", "model.int8.b4.tflite"]
    one, four = (artifact.entry() for artifact in made.artifacts)
    assert one["target"] == "tflite-int8"
    codes = {"dtype": "int8", "scale": 1 / 127, "zero_point": 0}  # asinh_int8.v1's own
    assert one["input"] == {"name": "triplets", "shape": [1, 63, 63, 3], "layout": "NHWC", **codes}
    assert (one["output"]["kind"], four["output"]["shape"]) == ("logit", [4, 1])
    assert one["quantization"]["calibration_stamps"] == 6
    assert one["quantization"]["cells"] == [{"cell": "S/N < 10, light any", "triplets": 100, "drawn": 6}]
    assert (one["quantization"]["edgetpu"]["unmapped"], four["quantization"]["edgetpu"]["unmapped"]) == (0, 9)
    assert made.operators.mapped == 9
    scores = [tflite.scorer(artifact.content)(STAMPS) for artifact in made.artifacts]
    np.testing.assert_array_equal(*scores)


def test_a_network_that_loses_too_much_is_tuned_and_kept_when_that_helps():
    made, drawn = build([(0.01, 0.0), (0.001, 0.0)])
    assert drawn == [2, 2, 2]
    assert made.tuned
    assert (made.calibrated.aucpr, made.loss.aucpr) == (0.01, 0.001)
    said = made.artifacts[0].quantization
    assert said["method"].endswith("quantisation-aware training")
    assert (said["validation_loss_before_tuning"]["aucpr"], said["validation_loss"]["aucpr"]) == (0.01, 0.001)
    assert made.artifacts[0].content != build([(0.0, 0.0)])[0].artifacts[0].content


@pytest.mark.parametrize("after", [(0.0, 0.02), (0.0, 0.01)])
def test_tuning_that_does_not_help_is_dropped(after):
    made, _ = build([(0.0, 0.01), after])
    assert not made.tuned
    assert made.loss == made.calibrated
    assert made.artifacts[0].content == build([(0.0, 0.0)])[0].artifacts[0].content


def test_no_steps_mean_no_tuning():
    made, drawn = build([(0.5, 0.5)], tuning={**TUNING, "steps": 0})
    assert (made.tuned, drawn, made.loss.aucpr) == (False, [], 0.5)


def test_a_limit_of_zero_tunes_for_any_loss():
    assert build([(1e-9, 0.0), (0.0, 0.0)], tuning={**TUNING, "aucpr_loss": 0.0})[0].tuned


@pytest.mark.parametrize(
    ("lost", "real", "tuned"),
    [(1, 141, False), (2, 141, True), (1, 49, False), (3, 1000, False), (4, 1000, True)],
    ids=["one row of few", "two rows of few", "one row of 49", "at the limit", "beyond the limit"],
)
def test_one_real_row_of_validation_does_not_start_a_tuning(lost, real, tuned):
    assert build([(0.0, lost / real), (0.0, 0.0)], real=real)[0].tuned is tuned
