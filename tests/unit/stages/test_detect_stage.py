import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from astrid.commands import detect as command
from astrid.config.schema import CandidatesConfig
from astrid.config.validate import validate
from astrid.core.errors import InputError
from astrid.core.runtime import write_json
from astrid.io.fits import write_difference
from astrid.io.shards import TripletStore
from astrid.io.tables import CANDIDATES, PAIRS, read_table, write_table
from astrid.stages import detect as stage

ROOT = Path(__file__).parents[3]


def _scene():
    """The synthetic difference of the room's own tests."""
    name = "astrid_candidates_scene"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, ROOT / "tests/unit/candidates/conftest.py")
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name].Scene


def product(seed, *sources):
    view = _scene()(seed=seed)
    for x, y, snr in sources:
        view.add(x, y, snr)
    return view.build()


@pytest.fixture(scope="module")
def cfg():
    return validate(CandidatesConfig, yaml.safe_load((ROOT / "conf/candidates/default.yaml").read_text()), path="candidates")


@pytest.fixture
def folder(tmp_path):
    here = tmp_path / "difference"
    here.mkdir()
    write_difference(here / "b__r.fits", product(1, (100, 100, 30), (10, 60, -40)))
    write_difference(here / "a__r.fits", product(2, (150, 90, 25)))
    (here / "broken__r.fits").write_bytes(b"SIMPLE  = no")
    names = ["b__r", "broken__r", "a__r", "refused__r"]
    status = ["ok", "ok", "ok", "refused"]
    pairs = {"pair_id": names, "science_id": names, "reference_id": "r", "status": status}
    write_table(pd.DataFrame(pairs), here / "pairs.parquet", PAIRS)
    return here


def test_the_table_is_sorted_and_the_report_counts(folder, tmp_path, cfg):
    report = stage.detect(folder, tmp_path / "candidates.parquet", cfg, processes=1)
    table = read_table(tmp_path / "candidates.parquet", CANDIDATES)
    assert list(table["pair_id"]) == ["a__r", "b__r", "b__r"]
    assert list(table["candidate_id"]) == ["a__r:00000", "b__r:00000", "b__r:00001"]
    assert (report["positive"], report["negative"], report["unscorable"]) == (2, 1, 1)
    assert report["tags"] == {"edge": 1}
    assert report["candidates_a_pair"] == {"median": 1.0, "max": 2}
    assert [problem["pair_id"] for problem in report["problems"]] == ["broken__r"]
    assert "broken__r.fits" in report["problems"][0]["reason"]
    write_json(tmp_path / "report.json", report)
    assert json.loads((tmp_path / "report.json").read_text())["candidates"] == 3


def test_one_process_and_two_write_the_same_bytes(folder, tmp_path, cfg):
    for processes in (1, 2):
        stage.detect(folder, tmp_path / f"{processes}.parquet", cfg, processes=processes)
    assert (tmp_path / "1.parquet").read_bytes() == (tmp_path / "2.parquet").read_bytes()


def test_no_usable_pair_is_an_empty_table(folder, tmp_path, cfg):
    write_table(PAIRS.empty(), folder / "pairs.parquet", PAIRS)
    report = stage.detect(folder, tmp_path / "candidates.parquet", cfg, processes=1)
    assert report["candidates"] == 0
    assert len(read_table(tmp_path / "candidates.parquet", CANDIDATES)) == 0


def test_what_the_limit_dropped_is_reported(folder, tmp_path, cfg):
    limited = replace(cfg, extract=replace(cfg.extract, max_candidates=1))
    assert stage.detect(folder, tmp_path / "candidates.parquet", limited, processes=1)["dropped"] == {"b__r": 1}


def test_the_main_reads_its_own_subtree(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    folder.rename(tmp_path / "data/difference")
    values = {"candidates": yaml.safe_load((ROOT / "conf/candidates/default.yaml").read_text()), "compute": {"workers": 1}}
    Path("params.yaml").write_text(yaml.safe_dump(values))
    stage.main()
    assert json.loads(Path("reports/detect.json").read_text())["candidates"] == 3
    assert Path("data/candidates/candidates.parquet").exists()


def test_the_command_writes_table_triplets_and_picture(folder, tmp_path, cfg, capsys):
    command.detect(folder / "b__r.fits", tmp_path / "out.parquet", tmp_path / "triplets", cfg, tmp_path / "out.png")
    assert len(read_table(tmp_path / "out.parquet", CANDIDATES)) == 2
    store = TripletStore.open(tmp_path / "triplets")
    assert list(store.table["candidate_id"]) == ["b__r:00001"]
    assert np.isfinite(store.stamps([0])).all()
    assert (tmp_path / "out.png").stat().st_size > 10_000
    printed = capsys.readouterr().out
    assert "2 candidates, 1 without an artefact tag" in printed
    assert "-40" in printed or "-39" in printed or "-41" in printed


def test_the_command_names_a_missing_product(tmp_path, cfg):
    with pytest.raises(InputError, match=r"absent\.fits"):
        command.detect(tmp_path / "absent.fits", tmp_path / "out.parquet", None, cfg, None)
