from __future__ import annotations

import math
import multiprocessing
import os
import signal

import numpy as np
import pandas as pd
import pytest
import torch

from astrid.core.errors import AstridError, ConfigError, DataSetError, InputError, MissingDependencyError
from astrid.learning import models
from astrid.learning.checkpoint import Checkpoint, checkpoint_path
from astrid.learning.train import better, choose_device, learning_rate, loader_count, train_from, training_key

SMALL = {"width": 4, "dense": 8}


class Killed(Exception):
    pass


def test_a_separable_problem_is_learned(make_toy, make_splits, make_model, make_train):
    toy = make_toy(128)
    cfg = make_train(epochs=10, patience=10, learning_rate=0.002, batch_size=8)
    result = train_from(toy, make_splits(toy), make_model(width=8, dense=64, dropout=0.0), cfg)
    assert result.validation_aucpr > 0.95
    assert result.history["train_loss"].iloc[-1] < 0.6 * result.history["train_loss"].iloc[0]
    assert result.metrics["train_real"] == 48
    assert not result.model.training


@pytest.mark.parametrize(("name", "loaders", "cache_mb"), [("astrid_cnn", 0, 256), ("braai", 2, 256), ("astrid_cnn", 1, 0)])
def test_a_killed_training_goes_on_and_ends_bit_for_bit_the_same(
    tmp_path, toy, splits, make_model, make_train, everything, name, loaders, cache_mb
):
    changes = {"augment": everything, "loaders": loaders, "cache_mb": cache_mb}
    model_cfg, cfg = make_model(name, **SMALL), make_train(epochs=4, patience=4, warmup_epochs=1.0, **changes)
    whole_rows: list[dict[str, float]] = []
    whole = train_from(toy, splits, model_cfg, cfg, on_epoch=whole_rows.append)

    def kill(row: dict[str, float]) -> None:
        if row["epoch"] == 2:
            raise Killed

    with pytest.raises(Killed):
        train_from(toy, splits, model_cfg, cfg, on_epoch=kill, checkpoints=tmp_path)
    torch.manual_seed(99)
    rows: list[dict[str, float]] = []
    resumed = train_from(toy, splits, model_cfg, cfg, on_epoch=rows.append, checkpoints=tmp_path)
    assert models.dump(resumed.model, model_cfg) == models.dump(whole.model, model_cfg)
    pd.testing.assert_frame_equal(resumed.history, whole.history, check_exact=True)
    assert rows == whole_rows
    assert resumed.metrics == whole.metrics


@pytest.mark.parametrize("cache_mb", [0, 256])
def test_the_number_of_loaders_changes_nothing(toy, splits, make_model, make_train, everything, cache_mb):
    histories = []
    for loaders in (0, 1, 2):
        cfg = make_train(augment=everything, loaders=loaders, cache_mb=cache_mb, epochs=3)
        histories.append(train_from(toy, splits, make_model(**SMALL), cfg).history)
    pd.testing.assert_frame_equal(histories[1], histories[0], check_exact=True)
    pd.testing.assert_frame_equal(histories[2], histories[0], check_exact=True)
    # What this seed has always given: other draws change the third digit.
    assert histories[0]["train_loss"].tolist() == pytest.approx([0.70716476, 0.68961187, 0.70069279], rel=1e-5)


def test_processes_prepare_batches_beside_a_gpu_unless_a_number_is_given(monkeypatch):
    monkeypatch.setattr("astrid.learning.train.worker_count", lambda _: 4)
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert [loader_count("auto", cpu), loader_count("auto", gpu), loader_count(2, cpu), loader_count(0, gpu)] == [0, 3, 2, 0]
    monkeypatch.setattr("astrid.learning.train.worker_count", lambda _: 64)
    assert loader_count("auto", gpu) == 8


def test_a_killed_loader_ends_a_training_with_a_sentence(toy, splits, make_model, make_train):
    def kill(_: dict[str, float]) -> None:
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)

    with pytest.raises(AstridError, match=r"prepares batches was killed by signal 9; .* set train\.loaders=0"):
        train_from(toy, splits, make_model(**SMALL), make_train(loaders=2, epochs=2), on_epoch=kill)
    assert multiprocessing.active_children() == []


def test_bfloat16_learns_the_same_in_other_last_digits_and_repeats(make_toy, make_splits, make_model, make_train):
    toy = make_toy(96)
    losses = {}
    for name in ("float32", "bfloat16", "again"):
        cfg = make_train(epochs=6, patience=6, batch_size=8, learning_rate=0.002, precision="float32" if name == "float32" else "bfloat16")
        result = train_from(toy, make_splits(toy), make_model(width=8, dense=32, dropout=0.0), cfg)
        losses[name] = result.history["train_loss"].to_numpy()
        assert {one.dtype for one in result.model.parameters()} == {torch.float32}
    np.testing.assert_array_equal(losses["again"], losses["bfloat16"])
    assert not np.array_equal(losses["float32"], losses["bfloat16"])
    np.testing.assert_allclose(losses["bfloat16"], losses["float32"], rtol=0.1)
    assert losses["bfloat16"][-1] < 0.9 * losses["bfloat16"][0]


def test_a_finished_training_is_taken_from_its_checkpoint(tmp_path, toy, splits, make_model, make_train):
    model_cfg, cfg = make_model(**SMALL), make_train()
    first = train_from(toy, splits, model_cfg, cfg, checkpoints=tmp_path)
    before = checkpoint_path(tmp_path, first.key).stat().st_mtime_ns
    again = train_from(toy, splits, model_cfg, cfg, checkpoints=tmp_path)
    assert checkpoint_path(tmp_path, first.key).stat().st_mtime_ns == before
    assert models.dump(again.model, model_cfg) == models.dump(first.model, model_cfg)


def test_the_key_follows_data_split_and_settings(toy, splits, make_model, make_train):
    key = training_key(toy, splits, make_model(), make_train())
    assert key == training_key(toy, splits.iloc[::-1], make_model(), make_train())
    other_split = splits.assign(part=splits["part"].replace("validation", "test"))
    others = [
        training_key(toy, other_split, make_model(), make_train()),
        training_key(toy, splits, make_model(dropout=0.1), make_train()),
        training_key(toy, splits, make_model(), make_train(seed=6)),
    ]
    toy.digest = "other"
    others.append(training_key(toy, splits, make_model(), make_train()))
    assert len({key, *others}) == 5


def test_training_stops_when_validation_stalls_and_keeps_the_best(toy, splits, make_model, make_train):
    cfg = make_train(epochs=30, patience=2, min_delta=0.9)
    result = train_from(toy, splits, make_model(**SMALL), cfg)
    assert len(result.history) == 3
    assert result.best_epoch == 1


def test_the_caller_keeps_its_random_state_and_threads(toy, splits, make_model, make_train):
    torch.manual_seed(3)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    train_from(toy, splits, make_model(**SMALL), make_train(epochs=1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory


def test_test_stamps_are_not_read(toy, splits, make_model, make_train):
    splits.loc[40:47, "part"] = "test"
    toy.array[40:48] = 1e6
    read: list[int] = []
    stamps = toy.stamps
    toy.stamps = lambda indices, *memory: read.extend(map(int, indices)) or stamps(indices, *memory)
    train_from(toy, splits, make_model(**SMALL), make_train(epochs=1, balance="sampling", optimizer="adam"))
    assert set(read) == {*range(40), *range(48, 64)}


def test_an_epoch_may_visit_a_part_of_the_set_another_each_time(toy, splits, make_model, make_train):
    read: list[int] = []
    stamps = toy.stamps
    toy.stamps = lambda indices, *memory: read.extend(map(int, indices)) or stamps(indices, *memory)
    result = train_from(toy, splits, make_model(**SMALL), make_train(epochs=3, epoch_rows=20, cache_mb=0, loaders=0))
    training = [row for row in read if row < 48][1:]  # the first gives the shape
    assert len(training) == 3 * 20
    assert 20 < len(set(training)) <= 48
    assert 0.1 < result.history["train_loss"][0] < 2.0


def test_an_empty_class_stops_training_before_it_begins(toy, splits, make_model, make_train):
    toy.table.loc[:47, "label"] = 1
    with pytest.raises(DataSetError, match="the part 'train' holds 48 real and 0 bogus"):
        train_from(toy, splits, make_model(**SMALL), make_train())


def test_a_diverging_loss_is_said(toy, splits, make_model, make_train):
    with pytest.raises(ConfigError, match=r"not finite in epoch 1; lower train\.learning_rate"):
        train_from(toy, splits, make_model(**SMALL), make_train(learning_rate=1e30))


def test_cuda_where_there_is_none_is_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MissingDependencyError, match=r"train\.device = cuda"):
        choose_device("cuda")
    assert choose_device("auto").type == "cpu"


def test_the_learning_rate_rises_and_falls(make_train):
    cfg = make_train(epochs=4, warmup_epochs=1.0, learning_rate=1.0, schedule="cosine")
    rates = [learning_rate(cfg, step, 10) for step in range(40)]
    assert rates[:10] == pytest.approx(np.arange(1, 11) / 10)
    assert rates[25] == pytest.approx(0.5)
    assert rates[-1] == pytest.approx(0.5 * (1 + math.cos(math.pi * 29 / 30)))
    constant = make_train(schedule="constant", warmup_epochs=0.0, learning_rate=0.3)
    assert learning_rate(constant, 1000, 10) == 0.3


def test_better_needs_more_than_the_least_gain():
    history = [{"validation_aucpr": value} for value in (0.5, 0.7, 0.7, 0.705, 0.72)]
    assert better(history, 0.0) == 4
    assert better(history[:3], 0.0) == 1
    assert better(history, 0.05) == 1


def test_a_checkpoint_of_another_training_is_not_taken_and_a_broken_one_is_said(tmp_path):
    mine = Checkpoint(tmp_path, "a" * 64)
    assert mine.load() is None
    mine.save({"history": []})
    assert mine.load() == {"key": "a" * 64, "history": []}
    assert Checkpoint(tmp_path, "a" * 63 + "b").load() is None
    checkpoint_path(tmp_path, mine.key).write_bytes(b"broken")
    with pytest.raises(InputError, match="is not a readable torch file; delete it"):
        mine.load()
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint_path(tmp_path, mine.key).name]
