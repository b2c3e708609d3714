"""Stage inject: tables of copies, which the stage difference turns into products; nothing where nothing is asked for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from astrid.core.dq import DQ
from astrid.core.errors import ImagingError, InputError
from astrid.io.fits import read_difference, write_calibrated
from astrid.io.tables import EXPOSURES, PAIRS, TRUTH, read_table, write_table
from astrid.stages import difference, inject
from support import skies

ROOT = Path(__file__).parents[3]
COPY = "sci__ref-inj0"


def settings(folder: Path, **changes: Any) -> None:
    imaging = yaml.safe_load((ROOT / "conf/imaging/default.yaml").read_text())
    imaging["report"]["worst"] = 0
    injection = yaml.safe_load((ROOT / "conf/injection/default.yaml").read_text())
    values = {"imaging": imaging, "compute": {"workers": 1, "memory_gb": 0, "retries": 2, "dask": None}}
    values["injection"] = {**injection, "seed": 5, "density": 400.0, "min_snr": 20.0, **changes}
    (folder / "params.yaml").write_text(yaml.safe_dump(values))


def write_project(folder: Path, names: tuple[str, str] = ("sci", "ref"), **changes: Any) -> None:
    sky = skies.make_pair(seed=6, shape=(160, 160), count=40, given=True)
    rows = []
    for name, image in zip(names, (sky.science, sky.reference), strict=True):
        image = replace(image, info=replace(image.info, exposure_id=name), **changes)
        write_calibrated(folder / f"data/calibrated/{name}.fits", image)
        rows.append({"exposure_id": name, "path": "x", "role": image.info.role, "status": "ok", "reason": ""})
    frame = pd.DataFrame(rows).assign(survey="s", instrument="i", filter="r", mjd=59000.0)
    write_table(frame, folder / "data/calibrated/exposures.parquet", EXPOSURES)
    pair = {"pair_id": "__".join(names), "science_id": names[0], "reference_id": names[1], "status": "ok", "reason": "", "mjd": 59000.0}
    refused = {**pair, "pair_id": "lone", "reference_id": "", "status": "refused", "reason": "no reference was found."}
    write_table(pd.DataFrame([pair, refused]), folder / "data/pairs/pairs.parquet", PAIRS)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_project(tmp_path)
    settings(tmp_path)
    return tmp_path


def tables(project: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    return read_table(project / "data/injected/pairs.parquet", PAIRS), read_table(project / "data/injected/truth.parquet", TRUTH)


def test_no_copies_cost_nothing_and_give_empty_tables(project, monkeypatch):
    settings(project, copies=0)
    monkeypatch.setattr(inject, "read_calibrated", lambda path: pytest.fail(f"{path} was read"))
    inject.main()
    pairs, truth = tables(project)
    assert len(pairs) == len(truth) == 0
    assert "flux_ratio" in truth.columns
    assert sorted(path.name for path in (project / "data/injected").iterdir()) == ["pairs.parquet", "truth.parquet"]
    assert json.loads((project / "reports/inject.json").read_text())["copies"] == 0
    assert len(inject.injected_truth(["sci"])) == 0
    difference.main()
    assert list(read_table(project / "data/difference/pairs.parquet", PAIRS)["pair_id"]) == ["sci__ref", "lone"]


def test_a_copy_is_subtracted_with_its_sources_and_the_pair_without(project):
    inject.main()
    difference.main()
    pairs, truth = tables(project)
    assert pairs[["pair_id", "science_id", "reference_id"]].to_numpy().tolist() == [[COPY, "sci-inj0-ref", "ref-inj0-sci"]]
    done = read_table(project / "data/difference/pairs.parquet", PAIRS).set_index("pair_id")
    assert done["status"].to_dict() == {"sci__ref": "ok", "lone": "refused", COPY: "ok"}
    plain, copy = (read_difference(project / f"data/difference/{name}.fits") for name in ("sci__ref", COPY))
    assert (copy.info.exposure_id, copy.reference_info.exposure_id) == ("sci-inj0-ref", "ref-inj0-sci")
    assert plain.info.exposure_id == "sci"
    here = truth[truth["exposure_id"] == "sci-inj0-ref"]
    rows, columns = (np.round(here[name]).astype(int).to_numpy() for name in ("y", "x"))
    sign = np.where(here["fading"], -1, 1)
    good = np.isfinite(copy.flux[rows, columns])
    assert 0 < here["fading"].sum() < len(here)
    shown = (sign * copy.score[rows, columns])[good]
    assert shown.min() > 2  # beside a bright star
    assert np.median(shown) > 15
    assert np.abs(plain.score[rows, columns]).max() < 5
    assert copy.truth.sum() == len(here)
    assert copy.truth[rows, columns].all()
    marked = (copy.dq & np.uint32(DQ.INJECTED)) != 0
    assert marked[rows, columns].mean() > 0.9
    assert not (plain.dq & np.uint32(DQ.INJECTED)).any()


def test_again_the_same_bytes_and_more_copies_leave_the_first(project, monkeypatch):
    inject.main()
    first = tables(project)[1]
    before = {path.name: path.read_bytes() for path in (project / "data/injected").iterdir() if path.is_file()}
    with monkeypatch.context() as patched:
        patched.setattr(inject, "_draw_one", lambda job: pytest.fail(f"{job.key} was done again"))
        inject.main()
    assert {path.name: path.read_bytes() for path in (project / "data/injected").iterdir() if path.is_file()} == before
    settings(project, copies=2)
    inject.main()
    pairs, truth = tables(project)
    assert list(pairs["pair_id"]) == [COPY, "sci__ref-inj1"]
    pd.testing.assert_frame_equal(truth.iloc[: len(first)], first)
    second = truth[truth["exposure_id"] == "sci-inj1-ref"]
    assert not np.isclose(second["x"].to_numpy()[:3], first["x"].to_numpy()[:3]).any()


def test_sources_keep_away_from_changes_that_are_known(project):
    places = np.stack(np.meshgrid(np.arange(10.0, 160.0, 20.0), np.arange(10.0, 160.0, 20.0)), axis=-1).reshape(-1, 2)
    known = {"object_id": "v", "kind": "variable", "exposure_id": "sci", "s_ra": 0.0, "s_dec": 0.0, "x": places[:, 0], "y": places[:, 1]}
    write_table(pd.DataFrame({**known, "flux": 9.0}), project / "data/raw/truth.parquet", TRUTH)
    settings(project, apart_fwhms=3.0)
    inject.main()
    truth = tables(project)[1]
    here = truth[truth["exposure_id"] == "sci-inj0-ref"]
    gap = np.hypot(here["x"].to_numpy()[:, None] - places[:, 0], here["y"].to_numpy()[:, None] - places[:, 1]).min(axis=1)
    assert len(here) > 0
    assert gap.min() > 8.9


def test_a_pair_without_a_gain_has_no_copies_and_says_why(project):
    write_project(project, gain=float("inf"))
    with pytest.raises(ImagingError, match=r"nothing could be injected into the 1 pairs; see .*no photon noise can be drawn"):
        inject.main()
    assert len(tables(project)[0]) == 0
    assert "no photon noise" in json.loads((project / "reports/inject.json").read_text())["reasons"]["sci__ref"]
    difference.main()
    assert list(read_table(project / "data/difference/pairs.parquet", PAIRS)["pair_id"]) == ["sci__ref", "lone"]


def test_a_name_like_a_copys_is_refused(project):
    write_project(project, names=("sci-inj3", "ref"))
    with pytest.raises(InputError, match="'sci-inj3' reads like the name of an injected copy"):
        inject.main()
