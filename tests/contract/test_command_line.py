"""Every verb explains itself, and a user's mistake is one sentence with exit code 2."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ONE_WORD = ("doctor", "params", "subtract", "detect", "inject", "forced", "asteroids", "score", "registry")
VERBS = [
    [],
    *([verb] for verb in ONE_WORD),
    *(["registry", verb] for verb in ("list", "show", "promote", "rollback", "history", "diff", "compile")),
]


def astrid(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "astrid.cli", *arguments], cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: " ".join(verb) or "astrid")
def test_help(verb: list[str], project_root: Path) -> None:
    done = astrid(*verb, "--help", cwd=project_root)
    assert done.returncode == 0
    assert "Usage:" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["subtract", "nowhere.fits", "nothere.fits", "-o", "out.fits"], "nowhere.fits"),
        (["detect", "nowhere.fits", "-o", "out.parquet"], "nowhere.fits"),
        (["score", "nowhere.avro", "-o", "out.parquet"], "nowhere.avro"),
        (["subtract", "a.fits", "b.fits", "-o", "out.fits", "-S", "imaging.difference.treshold=3"], "treshold"),
        (["params", "--conf", str(ROOT / "conf"), "+nonsense=1"], "nonsense is not a configuration key"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(arguments: list[str], sentence: str, tmp_path: Path) -> None:
    done = astrid(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_is_a_json_line_under_json_logs(tmp_path: Path) -> None:
    done = astrid("--json-logs", "detect", "nowhere.fits", "-o", "out.parquet", cwd=tmp_path)
    assert done.returncode == 2
    (entry,) = map(json.loads, done.stderr.splitlines())
    assert (entry["level"], "nowhere.fits" in entry["message"]) == ("ERROR", True)
