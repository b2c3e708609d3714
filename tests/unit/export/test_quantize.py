from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from astrid.config.schema.integer import PlaneConfig
from astrid.config.schema.model import ModelConfig
from astrid.core.errors import DataSetError
from astrid.export import quantize
from astrid.learning import models
from astrid.learning.graph import from_network

PLANE = PlaneConfig(snr_edges=(10.0,), light_edges=(5.0,), share=0.1, least=3)


def table(counts):
    """Triplets by cell: faint dark, faint on light, bright dark, bright on light."""
    values = [(7.0, 1.0), (-7.0, 20.0), (30.0, np.nan), (30.0, 20.0)]
    rows = [pair for pair, count in zip(values, counts, strict=True) for _ in range(count)]
    return pd.DataFrame(rows, columns=["snr", "reference_snr"])


def draw(frame, allowed, wanted=12, plane=PLANE):
    return quantize.draw_over_plane(frame, np.asarray(allowed), wanted, plane, np.random.default_rng(0))


def test_every_cell_of_the_plane_gives_as_many_triplets_as_it_can():
    drawn = draw(table([100, 20, 4, 2]), range(126))
    assert [count for count, _ in drawn.cells.values()] == [100, 20, 4, 2]
    assert drawn.cells["S/N >= 10, light >= 5"] == (2, 2)
    assert sorted(got for _, got in drawn.cells.values()) == [2, 3, 3, 4]
    assert len(set(drawn.rows)) == 12
    assert list(drawn.rows) == sorted(drawn.rows)


def test_rows_that_may_not_be_drawn_are_not():
    allowed = np.arange(0, 126, 2)
    assert set(draw(table([100, 20, 4, 2]), allowed, plane=PLANE).rows) <= set(allowed)


def test_a_cell_that_matters_and_is_bare_is_refused_with_its_numbers():
    frame = table([100, 60, 20, 20])
    with pytest.raises(DataSetError, match=r"1 of 4 cells that matter .* first S/N < 10, light >= 5 with 0 where 60 of 200 triplets lie"):
        draw(frame, [*range(100), *range(160, 200)])


def test_a_cell_below_its_share_may_be_bare():
    assert draw(table([100, 60, 40, 1]), range(200)).cells["S/N >= 10, light >= 5"] == (1, 0)


@pytest.mark.parametrize(("allowed", "wanted"), [([], 5), ([0], 0)])
def test_nothing_to_draw_is_refused(allowed, wanted):
    with pytest.raises(DataSetError, match="cannot calibrate an integer model"):
        draw(table([1, 0, 0, 0]), np.array(allowed, np.int64), wanted)


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 6.0), (-3.0, 0.5), (2.0, 5.0), (-5.0, -2.0), (0.0, 0.0)])
def test_a_scale_reaches_both_ends_and_has_zero_exactly(low, high):
    one = quantize.scale_of(low, high)
    assert -128 <= one.zero_point <= 127
    ends = [one.scale * (code - one.zero_point) for code in (-128, 127)]
    assert ends[0] <= min(low, 0.0) + one.scale / 2
    assert ends[1] >= max(high, 0.0) - one.scale / 2


def graph(normalization="asinh_noise.v1"):
    torch.manual_seed(0)
    cfg = ModelConfig(name="braai", normalization=normalization, width=4, dense=8, conv_dropout=0.0, dropout=0.0)
    return from_network(models.build(cfg).eval())


STAMPS = np.random.default_rng(0).uniform(-0.5, 0.5, (4, 3, 63, 63)).astype(np.float32)


def test_weights_are_a_channel_in_convolutions_and_a_tensor_in_dense_layers():
    found = quantize.calibrate(graph(), [STAMPS], "asinh_noise.v1", "logit")
    assert [one.scales.shape for one in found.weights] == [(4,), (4,), (8,), (8,), (1,), (1,)]
    for one, operator in zip(found.weights, (o for o in found.graph.operators if o.weights is not None), strict=True):
        scales = one.scales.reshape(-1, *[1] * (operator.weights.ndim - 1))
        assert np.abs(one.weights * scales - operator.weights).max() <= scales.max() * 0.501
        assert np.abs(one.weights).max() == 127


def test_values_that_are_only_moved_keep_their_scale():
    found = quantize.calibrate(graph(), [STAMPS], "asinh_noise.v1", "logit")
    for number, operator in enumerate(found.graph.operators):
        same = found.values[number + 1] == found.values[operator.inputs[0]]
        assert same == (operator.kind in ("max_pool", "flatten"))


def test_the_codes_of_the_input_are_the_integer_normalisations_own():
    assert quantize.calibrate(graph(), [STAMPS], "asinh_int8.v1", "logit").values[0] == quantize.Scale(1 / 127, 0)
    measured = quantize.calibrate(graph(), [STAMPS], "l2.v1", "logit").values[0]
    assert measured.scale == pytest.approx(1 / 255, rel=0.01)


def test_ranges_grow_with_every_batch_and_are_not_averaged():
    one, both = quantize.ranges(graph(), [STAMPS[:1]]), quantize.ranges(graph(), [STAMPS[:1], 2 * STAMPS[1:]])
    assert (both[:, 0] <= one[:, 0]).all()
    assert (both[:, 1] >= one[:, 1]).all()
    np.testing.assert_array_equal(both[0], [min(STAMPS[:1].min(), 2 * STAMPS[1:].min()), max(STAMPS[:1].max(), 2 * STAMPS[1:].max())])


def test_a_probability_needs_no_logit_beyond_half_its_step():
    extremes = np.tile([-30.0, 30.0], (len(graph().shapes), 1))
    assert quantize.value_scales(graph(), extremes, "asinh_noise.v1", "probability")[-1].scale == pytest.approx(2 * np.log(511) / 255)
    assert quantize.value_scales(graph(), extremes, "asinh_noise.v1", "logit")[-1].scale == pytest.approx(60 / 255)


def test_quantised_without_calibration_is_refused():
    with pytest.raises(DataSetError, match="no finite triplet came to calibrate on"):
        quantize.calibrate(graph(), [], "asinh_noise.v1", "logit")
