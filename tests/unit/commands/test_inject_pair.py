"""`astrid inject SCIENCE REFERENCE`: labelled triplets of the user's own pair."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from astrid.commands.inject_pair import Rooms, inject_pair
from astrid.config.schema import CandidatesConfig, DatasetConfig, ImagingConfig, InjectionConfig
from astrid.config.validate import validate
from astrid.core.errors import ConfigError, InputError
from astrid.io.fits import write_calibrated
from astrid.io.shards import TripletStore
from support import skies

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def rooms() -> Rooms:
    def read(group: str) -> dict[str, Any]:
        values: dict[str, Any] = yaml.safe_load((ROOT / f"conf/{group}/default.yaml").read_text())
        return values

    injection = {**read("injection"), "seed": 3, "copies": 2, "density": 200.0, "min_snr": 15.0}
    return Rooms(
        validate(ImagingConfig, read("imaging")),
        validate(InjectionConfig, injection),
        validate(CandidatesConfig, read("candidates")),
        validate(DatasetConfig, {**read("dataset"), "seed": 3}),
    )


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One source that is in the science exposure alone."""
    folder = tmp_path_factory.mktemp("pair")
    sky = skies.make_pair(seed=8, shape=(200, 200), count=50, given=True, transients=[(100.0, 90.0, 3000.0)])
    for image in (sky.science, sky.reference):
        write_calibrated(folder / f"{image.info.exposure_id}.fits", image)
    return folder / "sci.fits", folder / "ref.fits"


def test_injected_sources_are_real_and_detections_stay_unlabelled_or_become_bogus(tmp_path, pair, rooms, capsys):
    inject_pair(*pair, tmp_path / "plain", rooms=rooms)
    store = TripletStore.open(tmp_path / "plain/triplets")
    table = store.table
    assert set(table["pair_id"]) == {"sci__ref", "sci__ref-inj0", "sci__ref-inj1"}
    copied = table["pair_id"].str.contains("-inj")
    assert (table["label"][copied] == 1).all()
    assert set(table["sign"][copied]) == {1, -1}
    assert (table["label_source"][copied] == "injection").all()
    assert (table["label"][~copied] == -1).all()
    assert np.hypot(table["x"][~copied] - 100.0, table["y"][~copied] - 90.0).min() < 1.0
    truth = pd.read_parquet(tmp_path / "plain/truth.parquet")
    assert set(table["event_id"][copied]) <= set(truth["object_id"])
    printed = capsys.readouterr().out
    assert "injected into 2 copies" in printed
    matching = pd.read_parquet(tmp_path / "plain/candidates.parquet")["pair_id"].str.contains("-inj").sum()
    assert f"{matching} detections match one" in printed
    single = dataclasses.replace(rooms, injection=dataclasses.replace(rooms.injection, copies=1))
    inject_pair(*pair, tmp_path / "null", rooms=single, bogus_confidence=0.5)
    assert "injected into 1 copy," in capsys.readouterr().out
    labels = TripletStore.open(tmp_path / "null/triplets").table.set_index("candidate_id")["label"]
    assert (labels[table["candidate_id"][~copied]] == 0).all()
    assert (labels[table["candidate_id"][table["pair_id"] == "sci__ref-inj0"]] == 1).all()


def test_what_cannot_be_done_is_refused(tmp_path, pair, rooms):
    none = dataclasses.replace(rooms, injection=dataclasses.replace(rooms.injection, copies=0))
    with pytest.raises(ConfigError, match="asks for no copies; choose injection=default"):
        inject_pair(*pair, tmp_path / "out", rooms=none)
    with pytest.raises(InputError, match="does not exist; give a FITS file"):
        inject_pair(pair[0], tmp_path / "absent.fits", tmp_path / "out", rooms=rooms)
    with pytest.raises(InputError, match="science and reference are the same file"):
        inject_pair(pair[0], pair[0], tmp_path / "out", rooms=rooms)
    with pytest.raises(InputError, match="is not empty; name a new folder"):
        inject_pair(*pair, pair[0].parent, rooms=rooms)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file; name a new folder"):
        inject_pair(*pair, tmp_path / "file", rooms=rooms)
    (tmp_path / "twin.fits").write_bytes(pair[0].read_bytes())
    with pytest.raises(InputError, match="both images call themselves sci"):
        inject_pair(pair[0], tmp_path / "twin.fits", tmp_path / "out", rooms=rooms)
    assert not (tmp_path / "out").exists()
