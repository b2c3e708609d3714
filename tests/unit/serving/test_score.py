import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from astrid.commands import score as command
from astrid.core.errors import InputError
from astrid.io.shards import ShardWriter
from astrid.io.tables import SCORES, read_table
from astrid.serving.engine import ScoringEngine
from astrid.serving.score import Item, score_inputs, score_items


def row(name, reason=""):
    return {"candidate_id": name, "object_id": "", "survey": "ZTF", "source": "s", "sign": 1, "reason": reason}


def test_rows_keep_their_order_and_every_row_has_a_score_or_a_reason(tiny_model):
    good = np.random.default_rng(0).normal(size=(3, 63, 63)).astype(np.float32)
    blank = np.full_like(good, np.nan)
    items = [Item(row("a"), good), Item(row("b", "broken."), None), Item(row("c"), blank), Item(row("d"), good)]
    table = score_items(items, ScoringEngine.load(tiny_model), batch=2)
    assert list(table["candidate_id"]) == ["a", "b", "c", "d"]
    assert (table["score"].notna() ^ (table["reason"] != "")).all()
    assert table["reason"][2] == "a stamp has no finite pixel."
    assert table["score"][0] == pytest.approx(table["score"][3])
    assert table["model_version"].str.startswith("tiny@").all()


def test_a_triplet_store_and_a_broken_alert_go_into_one_table(tiny_model, tmp_path, capsys):
    stamps = np.random.default_rng(0).normal(size=(5, 3, 63, 63)).astype(np.float32)
    frame = pd.DataFrame(
        {"candidate_id": list("abcde"), "label": 1, "event_id": "e", "cell_id": "c", "exposure_id": "x", "survey": "sim", "sign": -1}
    )
    with ShardWriter(tmp_path / "store", 2) as writer:
        writer.append(stamps, frame)
    (tmp_path / "bad.avro").write_bytes(b"<html>")
    command.score([tmp_path / "store", tmp_path / "bad.avro"], tmp_path / "out.parquet", model=str(tiny_model), batch=2)
    table = read_table(tmp_path / "out.parquet", SCORES)
    assert list(table["candidate_id"]) == [*"abcde", ""]
    expected = ScoringEngine.load(tiny_model).score(stamps)
    np.testing.assert_allclose(table["raw_score"][:5], expected.raw, rtol=1e-6)
    assert (table["sign"][:5] == -1).all()
    printed = capsys.readouterr().out
    assert "5 of 6 scored" in printed
    assert "not an Avro file" in printed


def test_an_absent_input_is_a_mistake_before_anything_is_written(tiny_model, tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        score_inputs([tmp_path / "nothing"], tmp_path / "out.parquet", ScoringEngine.load(tiny_model), batch=8)
    assert not (tmp_path / "out.parquet").exists()


def test_a_difference_product_needs_the_settings_of_candidates(tiny_model, tmp_path):
    (tmp_path / "d.fits").write_bytes(b"")
    with pytest.raises(InputError, match="needs the section `candidates`"):
        score_inputs([tmp_path / "d.fits"], tmp_path / "out.parquet", ScoringEngine.load(tiny_model), batch=8)


def test_scoring_alerts_imports_nothing_heavy(tiny_model, tmp_path):
    (tmp_path / "bad.avro").write_bytes(b"x")
    script = (
        "import sys; from pathlib import Path; from astrid.serving.engine import ScoringEngine\n"
        "from astrid.serving.score import score_inputs\n"
        f"score_inputs([Path({str(tmp_path / 'bad.avro')!r})], Path({str(tmp_path / 'o.parquet')!r}), "
        f"ScoringEngine.load(Path({str(tiny_model)!r})), batch=2)\n"
        "print([m for m in ('torch', 'mlflow', 'photutils', 'scipy', 'sklearn', 'galsim', 'hydra', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
