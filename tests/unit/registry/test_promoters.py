"""Real processes: promotions that are killed by SIGKILL at random moments, and two that promote at once."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from astrid.registry import promote, versions
from astrid.registry.store import client

SCRIPT = Path(__file__).resolve().parents[2] / "support/promoters.py"
KILLS, ROUNDS = 8, 3


@pytest.fixture
def name(request, store):
    """A registered model with three versions without files: promotion looks at none."""
    name = f"p{abs(hash((request.node.name, store))) % 10**9}"
    versions.ensure_model(client(), name)
    ones = [versions.version(name, int(client().create_model_version(name, "file:///nowhere").version)) for _ in range(3)]
    promote.nominate(ones[-1], "a test")
    return name


def run(*arguments):
    """What the script's lines say."""
    done = subprocess.run([sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_promoter_killed_at_any_moment_leaves_one_champion_and_a_readable_journal(name):
    first, *killed, last = run("kill", name, 7, KILLS, 1, 2)
    assert (first["status"], last["status"]) == (0, 0)
    assert sum(turn["status"] == -signal.SIGKILL for turn in killed) >= KILLS // 4
    entries = len(first["numbers"])
    for turn in (*killed, last):
        assert turn["numbers"] == list(range(len(turn["numbers"])))
        assert turn["settled"] == turn["aliases"]
        champion = turn["aliases"]["onnx-champion"]
        assert champion in (turn["before"], turn["number"])
        assert len(turn["numbers"]) - entries == (champion == turn["number"])  # the entry is the promotion
        entries = len(turn["numbers"])
    assert last["aliases"]["onnx-champion"] == last["number"]
    assert last["aliases"]["previous-onnx-champion"] == last["before"]


def test_of_two_processes_that_promote_at_once_one_wins(name):
    for turn in run("race", name, ROUNDS, 1, 2, 3):
        assert sorted(turn["statuses"]) == [0, 3]
        winner = (2, 3)[turn["statuses"].index(0)]
        assert turn["settled"] == turn["aliases"]
        assert (turn["aliases"]["onnx-champion"], turn["aliases"]["previous-onnx-champion"]) == (winner, 1)
