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
from astrid.core.pool import LocalPool
from astrid.core.runtime import write_json
from astrid.io.fits import write_difference
from astrid.io.shards import TripletStore
from astrid.io.tables import ASTEROIDS, CANDIDATES, CATALOG, LIGHTCURVES, PAIRS, TRACKS, conform, read_table, write_table
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


def detect(folder, output, cfg, *, processes=1, catalog=None, asteroids=None):
    """The stage's work on a machine of so many processes."""
    nothing = (CATALOG.empty() if catalog is None else catalog, ASTEROIDS.empty() if asteroids is None else asteroids)
    return stage.detect(folder, output, cfg, executor=LocalPool(processes, 0.0, 0), catalog=nothing[0], asteroids=nothing[1])


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
    report = detect(folder, tmp_path, cfg)
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
        detect(folder, tmp_path / str(processes), cfg, processes=processes)
    for name in ("candidates", "lightcurves", "tracks"):
        assert (tmp_path / f"1/{name}.parquet").read_bytes() == (tmp_path / f"2/{name}.parquet").read_bytes()


def test_no_usable_pair_is_an_empty_table(folder, tmp_path, cfg):
    write_table(PAIRS.empty(), folder / "pairs.parquet", PAIRS)
    report = detect(folder, tmp_path, cfg)
    assert report["candidates"] == 0
    assert len(read_table(tmp_path / "candidates.parquet", CANDIDATES)) == 0


def test_what_the_limit_dropped_is_reported(folder, tmp_path, cfg):
    limited = replace(cfg, extract=replace(cfg.extract, max_candidates=1))
    assert detect(folder, tmp_path, limited)["dropped"] == {"b__r": 1}


def test_a_second_run_searches_only_what_changed(folder, tmp_path, cfg, monkeypatch):
    first = detect(folder, tmp_path, cfg)
    whole = (tmp_path / "candidates.parquet").read_bytes()
    write_difference(folder / "a__r.fits", product(3, (150, 90, 25), (60, 60, 50)))
    searched = []
    real = stage.search
    monkeypatch.setattr(stage, "search", lambda job: searched.append(job.key) or real(job))
    second = detect(folder, tmp_path, cfg)
    assert searched == ["a__r"]
    assert second["candidates"] == first["candidates"] + 1
    write_difference(folder / "a__r.fits", product(2, (150, 90, 25)))
    assert detect(folder, tmp_path, cfg) == first
    assert (tmp_path / "candidates.parquet").read_bytes() == whole
    detect(folder, tmp_path, replace(cfg, moving=replace(cfg.moving, tolerance=2.0)))
    assert searched == ["a__r", "a__r"]  # linking is no part of a pair's search


def test_products_that_are_gone_leave_nothing_behind(folder, tmp_path, cfg):
    detect(folder, tmp_path, cfg)
    pairs = read_table(folder / "pairs.parquet", PAIRS)
    write_table(pairs[pairs["pair_id"] == "a__r"], folder / "pairs.parquet", PAIRS)
    assert detect(folder, tmp_path, cfg)["candidates"] == 1
    assert sorted(path.name for path in (tmp_path / "pairs").iterdir()) == ["a__r.parquet", "a__r.parquet.json"]


def test_the_catalogue_has_light_curves_and_known_objects_their_names(folder, tmp_path, cfg):
    ra, dec = product(1).wcs.all_pix2world([100.0, 30.0], [100.0, 200.0], 0)
    catalog = conform(pd.DataFrame({"object_id": ["SN A", "SN B"], "s_ra": ra, "s_dec": dec}), CATALOG, source="test")
    asteroids = conform(pd.DataFrame({"name": ["433"], "mjd": [60000.0], "s_ra": ra[:1], "s_dec": dec[:1]}), ASTEROIDS, source="test")
    report = detect(folder, tmp_path, cfg, catalog=catalog, asteroids=asteroids)
    curves = read_table(tmp_path / "lightcurves.parquet", LIGHTCURVES)
    assert list(curves["pair_id"]) == ["a__r", "a__r", "b__r", "b__r"]
    assert list(curves["detected"]) == [False, False, True, False]
    assert curves["snr"][2] == pytest.approx(30, abs=3)
    assert np.isnan(curves["upper_limit"][2])
    assert curves["upper_limit"][3] == pytest.approx(3 * curves["flux_err"][3])
    assert (report["light_curve_points"], report["light_curve_detections"]) == (4, 1)
    table = read_table(tmp_path / "candidates.parquet", CANDIDATES)
    assert list(table["moving_name"]) == ["", "", "433"]
    assert report["known_objects"] == 1
    assert report["tags"] == {"edge": 1, "moving": 1}
    assert len(read_table(tmp_path / "tracks.parquet", TRACKS)) == 0


def test_the_main_reads_its_own_subtree(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    folder.rename(tmp_path / "data/difference")
    values = {
        "candidates": yaml.safe_load((ROOT / "conf/candidates/default.yaml").read_text()),
        "compute": {"workers": 1, "memory_gb": 0, "retries": 2, "dask": None},
    }
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


def test_an_injected_copy_gives_candidates_and_no_light_curve_or_track(folder, tmp_path, cfg):
    place = _scene()(seed=1).build().wcs.pixel_to_world_values(100, 100)
    catalog = conform(pd.DataFrame({"object_id": ["sn"], "s_ra": [float(place[0])], "s_dec": [float(place[1])]}), CATALOG, source="test")
    detect(folder, tmp_path, cfg, catalog=catalog)
    before = read_table(tmp_path / "lightcurves.parquet", LIGHTCURVES)
    (folder / "b__r-inj0.fits").write_bytes((folder / "b__r.fits").read_bytes())
    pairs = {"pair_id": ["b__r", "a__r", "b__r-inj0"], "science_id": "s", "reference_id": "r", "status": "ok"}
    write_table(pd.DataFrame(pairs), folder / "pairs.parquet", PAIRS)
    detect(folder, tmp_path, cfg, catalog=catalog)
    table = read_table(tmp_path / "candidates.parquet", CANDIDATES)
    assert table["pair_id"].tolist() == ["a__r", "b__r", "b__r", "b__r-inj0", "b__r-inj0"]
    assert (table["track_id"] == "").all()
    curves = read_table(tmp_path / "lightcurves.parquet", LIGHTCURVES)
    assert len(curves) > 0
    pd.testing.assert_frame_equal(curves, before)
