"""A real pair with injected copies: the sources come back as real triplets of the S/N that they were to have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from astrid.commands.inject_pair import Rooms, inject_pair
from astrid.config.schema import CandidatesConfig, DatasetConfig, ImagingConfig, InjectionConfig
from astrid.config.validate import validate
from astrid.io.shards import TripletStore


@pytest.fixture(scope="module")
def made(project_root, shared_data, tmp_path_factory) -> Path:
    folder = shared_data / "fits" / "decam-i"
    if not folder.is_dir():
        pytest.skip(f"the DECam exposures are not at hand ({folder} is absent)")

    def read(group: str) -> dict[str, Any]:
        values: dict[str, Any] = yaml.safe_load((project_root / f"conf/{group}/default.yaml").read_text())
        return values

    rooms = Rooms(
        validate(ImagingConfig, read("imaging")),
        validate(InjectionConfig, {**read("injection"), "seed": 1, "copies": 2, "density": 400.0, "min_snr": 8.0}),
        validate(CandidatesConfig, read("candidates")),
        validate(DatasetConfig, {**read("dataset"), "seed": 1}),
    )
    out = tmp_path_factory.mktemp("injected")
    inject_pair(folder / "DEC-OBS04a.mini.fits", folder / "DEC-OBS04b.mini.fits", out, rooms=rooms, bogus_confidence=0.5)
    return out


def test_most_of_what_is_injected_is_found_and_real(made):
    table = TripletStore.open(made / "triplets").table
    truth = pd.read_parquet(made / "truth.parquet")
    sources = truth[truth["flux"] > 0]
    labels = pd.read_parquet(made / "labels.parquet")
    found = labels[labels["source"] == "injection"]
    assert 40 < len(sources) < 60
    assert len(found) > 0.75 * len(sources)
    real = table[table["label"] == 1]
    assert (real["label_source"] == "injection").all()
    assert set(real["sign"]) == {1, -1}
    aimed = sources.set_index("object_id")["aimed_snr"].loc[real["event_id"]].to_numpy()
    assert np.median(real["true_snr"] / aimed) == pytest.approx(1.0, abs=0.12)
    assert np.median(real["snr"] / real["true_snr"]) == pytest.approx(1.0, abs=0.1)
