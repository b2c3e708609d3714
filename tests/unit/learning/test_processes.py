from __future__ import annotations

import logging
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from astrid.config.schema.train import AugmentConfig
from astrid.config.validate import validate
from astrid.core.errors import AstridError, InputError
from astrid.core.runtime import log, rng_for
from astrid.io.shards import ShardWriter
from astrid.learning.loader import NormalizedStamps, batches
from astrid.learning.processes import loading

SHAPE = (3, 63, 63)
SECONDS = 20.0  # a process that has not come or gone by then never does


def numbered(number, out=None):
    """A batch of two triplets that say which one it is."""
    made = np.empty((2, *SHAPE), np.float32) if out is None else out[:2]
    made[:] = number
    return torch.from_numpy(made)


def values(load, numbers):
    return [(number, batch[:, 0, 0, 0].tolist()) for number, batch in load(numbers)]


@pytest.mark.parametrize("cache_bytes", [0, 1e9])
def test_batches_are_the_same_to_the_last_bit_and_in_order_with_any_number_of_processes(toy, everything, cache_bytes):
    cfg = validate(AugmentConfig, everything, path="train.augment")
    stamps = NormalizedStamps(toy, np.arange(64), "asinh_noise.v1", cache_bytes=cache_bytes)

    def make(wanted, out=None):
        epoch, number, positions = wanted
        if epoch is None:
            return stamps.batch(positions, out)
        return stamps.augmented(positions, cfg, lambda effect: rng_for(3, effect, epoch, number), out)

    def made(processes):
        with loading(make, processes, 40) as load:
            for epoch in (0, 1, None):
                order = np.random.default_rng(epoch or 0).permutation(64)
                for (_, number, positions), batch in load((epoch, *one) for one in enumerate(batches(order, 5 if epoch == 0 else 40))):
                    yield number, positions.tolist(), batch.numpy().tobytes()

    in_line = list(made(0))
    assert len(in_line) == 13 + 2 + 2
    assert list(made(1)) == in_line
    assert list(made(2)) == in_line


def test_a_caller_who_stops_early_gets_the_right_batches_next_time():
    with loading(numbered, 2, 2) as load:
        assert next(load(range(100)))[0] == 0
        assert values(load, range(7, 12)) == [(number, [number] * 2) for number in range(7, 12)]


def test_batches_that_are_held_keep_their_values_and_the_others_share_a_few_slots():
    with loading(numbered, 2, 2) as load:
        addresses = {batch.data_ptr() for _, batch in load(range(60))}
        assert len(addresses) <= 5
        held = [(number, batch[1:]) for number, batch in load(range(30))]
        assert [batch.unique().tolist() for _, batch in held] == [[number] for number in range(30)]
        assert sum(batch.untyped_storage().data_ptr() in addresses for _, batch in held) >= 4
        del held
        assert {batch.data_ptr() for _, batch in load(range(60))} <= addresses
    assert multiprocessing.active_children() == []


def test_few_batches_are_made_ahead(tmp_path):
    def make(number, out=None):
        (tmp_path / str(number)).touch()
        return numbered(number, out)

    with loading(make, 2, 2) as load:
        wanted = load(range(1000))
        next(wanted)
        time.sleep(0.3)
        assert 1 <= len(list(tmp_path.iterdir())) <= 5


def test_an_error_comes_out_at_its_place_as_it_was_raised(tmp_path):
    names = [f"c{number}" for number in range(32)]
    frame = pd.DataFrame({"candidate_id": names, "pair_id": "p", "x": 1.0, "y": 2.0, "sign": 1, "snr": 7.0, "exposure_id": "e"})
    with ShardWriter(tmp_path / "store", 32) as writer:
        writer.append(np.ones((32, *SHAPE), np.float32), frame.assign(label=1, event_id="v", cell_id="c", tags=[[]] * 32))
        store = writer.close()
    stamps = NormalizedStamps(store, np.arange(32), "l2.v1", cache_bytes=0)
    shard = store.folder / store.shards[0].name
    os.truncate(shard, shard.stat().st_size - 10 * 4 * 3 * 63 * 63)
    told = []
    for processes in (0, 1, 2):
        with loading(stamps.batch, processes, 2) as load:
            made = load(batches(np.arange(32), 2))
            assert [next(made)[0].tolist() for _ in range(11)] == [[number, number + 1] for number in range(0, 22, 2)]
            with pytest.raises(InputError) as raised:
                next(made)
            told.append(str(raised.value))
    assert told == [f"{shard} ends within its row 22; fetch it again or run the stage triplets again."] * 3


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_that_cannot_be_sent_comes_with_its_name_and_text_and_the_processes_go_on(processes):
    class Unsendable(Exception):
        def __init__(self, one, two):
            super().__init__(f"{one} and {two}")

    def make(number, out=None):
        if number == 5:
            raise Unsendable("this", "that")
        return numbered(number, out)

    with loading(make, processes, 2) as load:
        made = load(range(9))
        assert [next(made)[0] for _ in range(5)] == [0, 1, 2, 3, 4]
        with pytest.raises(RuntimeError, match="Unsendable: this and that"):
            next(made)
        assert values(load, [6, 7]) == [(6, [6, 6]), (7, [7, 7])]


def test_a_killed_process_is_one_error_and_no_hang():
    began = time.monotonic()
    with loading(numbered, 2, 2) as load:
        made = load(range(10_000))
        next(made)
        os.kill(multiprocessing.active_children()[1].pid, signal.SIGKILL)
        with pytest.raises(AstridError, match=r"^a process that prepares batches was killed by signal 9; see whether memory ran out"):
            list(made)
    assert multiprocessing.active_children() == []
    assert time.monotonic() - began < SECONDS


def test_a_process_that_leaves_is_told_by_its_exit_code():
    def make(number, out=None):
        os._exit(3)

    with loading(make, 1, 2) as load, pytest.raises(AstridError, match="ended with exit code 3"):
        list(load([0]))


def test_processes_hold_torch_to_one_thread_and_leave_the_callers_threads():
    def make(number, out=None):
        out[:1] = torch.get_num_threads()
        return torch.from_numpy(out[:1])

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        torch.randn(300, 300) @ torch.randn(300, 300)  # its pool is there before the fork
        with loading(make, 1, 1) as load:
            assert [batch.unique().tolist() for _, batch in load([0])] == [[1.0]]
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_system_without_a_safe_fork_works_in_line_and_says_so(monkeypatch, caplog):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(log, "propagate", True)
    with caplog.at_level(logging.INFO, "astrid"), loading(numbered, 2, 2) as load:
        assert multiprocessing.active_children() == []
        assert values(load, [3]) == [(3, [3, 3])]
    assert "train.loaders = 2 needs a fork" in caplog.text


SCRIPT = """
import multiprocessing, sys, time
import numpy as np, torch
from astrid.core.runtime import exit_codes
from astrid.learning.processes import loading

def make(number, out=None):
    time.sleep(0.01)
    out[:1] = number
    return torch.from_numpy(out[:1])

with exit_codes(), loading(make, 2, 1) as load:
    for number, _ in load(range(10**6)):
        if number == 3:
            print(*(child.pid for child in multiprocessing.active_children()), flush=True)
"""


@pytest.mark.parametrize(("by", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM), (signal.SIGKILL, -signal.SIGKILL)])
def test_nothing_is_left_when_the_parent_goes(by, code):
    parent = subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0)
    try:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        if by == signal.SIGINT:
            os.killpg(parent.pid, by)  # as a terminal does
        else:
            os.kill(parent.pid, by)
        _, errors = parent.communicate(timeout=SECONDS)
        assert parent.returncode == code
        assert "Traceback" not in errors
        until = time.monotonic() + SECONDS
        while any(_runs(pid) for pid in pids):
            assert time.monotonic() < until, f"{pids} go on without their parent"
            time.sleep(0.05)
    finally:
        parent.kill()
        parent.wait()


def _runs(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    try:
        return re.search(r"^State:\s+[ZX]", status.read_text(), re.M) is None
    except (FileNotFoundError, ProcessLookupError):
        return False
