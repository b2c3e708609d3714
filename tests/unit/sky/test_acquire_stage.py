from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from astropy.io import fits

from astrid.core.errors import ConfigError, InputError
from astrid.core.provenance import digest_file
from astrid.io.tables import CATALOG, EXPOSURES, PAIRS, TRUTH, read_table
from astrid.stages import acquire, catalog


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _params(survey: dict[str, Any], simulate: dict[str, Any], workers: int = 1) -> None:
    Path("params.yaml").write_text(
        yaml.safe_dump(
            {"survey": survey, "simulate": simulate, "compute": {"workers": workers, "memory_gb": 0, "retries": 2, "dask": None}}
        )
    )


def _small(values: dict[str, Any]) -> dict[str, Any]:
    """One survey, one field, four exposures of 64 pixels."""
    survey = {**values["surveys"]["simspace"], "detectors": ["u1"]}
    schedule = {**values["schedule"], "fields": 1}
    return {**values, "image_size": 64, "schedule": schedule, "surveys": {"simspace": survey}}


def _bytes(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): digest_file(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def test_simulated_survey_is_acquired_paired_resumed_and_pruned(
    project: Path, simulate_values: Callable[..., dict[str, Any]], survey_values: Callable[[str], dict[str, Any]]
) -> None:
    _params(survey_values("simulated"), _small(simulate_values()))
    catalog.main()
    acquire.main()
    exposures, truth = read_table(acquire.EXPOSURES_PATH, EXPOSURES), read_table(acquire.TRUTH_PATH, TRUTH)
    pairs = read_table(acquire.PAIRS_PATH, PAIRS)
    assert len(exposures) == 4
    assert (pairs["status"] == "ok").sum() == 3
    assert set(truth["exposure_id"]) == set(exposures["exposure_id"])
    for column in ("path", "bias_path", "flat_path", "mask_path"):
        assert all((acquire.RAW / path).is_file() for path in exposures[column])
    before = _bytes(project / "data")

    victim = acquire.RAW / exposures["path"][1]  # killed in the middle: one exposure and its record are gone
    untouched = acquire.RAW / exposures["path"][2]
    stamp = untouched.stat().st_mtime_ns
    victim.unlink()
    victim.with_name(victim.name + ".json").unlink()
    (acquire.RAW / "stale.fits").write_text("of another run")
    acquire.main()
    assert _bytes(project / "data") == before
    assert untouched.stat().st_mtime_ns == stamp

    shutil.rmtree(acquire.RAW)  # and the same bytes from two processes
    _params(survey_values("simulated"), _small(simulate_values()), workers=2)
    acquire.main()
    assert _bytes(project / "data") == before


def _image(path: Path, mjd: float, value: float = float("nan")) -> None:
    data = np.random.default_rng(1).normal(100, 5, (20, 24)).astype(np.float32)
    hdu = fits.PrimaryHDU(data if np.isnan(value) else np.full_like(data, value))
    cards = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 30.0, "CRVAL2": 10.0, "CRPIX1": 12.5, "CRPIX2": 10.5}
    hdu.header.update({**cards, "CDELT1": -1e-4, "CDELT2": 1e-4, "INSTRUME": "cam", "FILTER": "r", "MJD-OBS": mjd, "EXPTIME": 60.0})
    hdu.writeto(path)


def test_a_users_folder_is_copied_verified_and_paired(
    project: Path, simulate_values: Callable[..., dict[str, Any]], survey_values: Callable[[str], dict[str, Any]]
) -> None:
    source = project / "mine"
    source.mkdir()
    _image(source / "new.fits", 59900.0)
    _image(source / "old.fits", 59700.0)
    _image(source / "flat.fits", 59700.0, value=1.0)
    _image(source / "new.noise.fits", 59900.0)
    (source / "events.csv").write_text("name,ra,dec\nSN 1,30.0,10.0\n")
    survey = survey_values("folder")
    survey["folder"].update(root=str(source), survey="mine", catalog="events.csv")
    _params(survey, simulate_values())
    catalog.main()
    acquire.main()
    assert read_table(catalog.OUTPUT, CATALOG)["object_id"].tolist() == ["SN 1"]
    exposures = read_table(acquire.EXPOSURES_PATH, EXPOSURES).set_index("exposure_id")
    assert exposures.loc["new", "path"] == "mine/field/science/new.fits"
    assert exposures.loc["new", "noise_path"] == "mine/field/science/new.noise.fits"
    assert digest_file(acquire.RAW / "mine/field/science/new.fits") == digest_file(source / "new.fits")
    assert read_table(acquire.PAIRS_PATH, PAIRS)["pair_id"].tolist() == ["new__old"]
    quarantine = json.loads(acquire.QUARANTINE_PATH.read_text())
    assert [entry["source"] for entry in quarantine] == ["flat.fits"]
    assert "one value 1" in quarantine[0]["reason"]
    before = _bytes(project / "data")
    (acquire.RAW / "mine/field/science/new.noise.fits").unlink()
    acquire.main()
    assert _bytes(project / "data") == before


def test_no_pair_at_all_is_an_error(
    project: Path, simulate_values: Callable[..., dict[str, Any]], survey_values: Callable[[str], dict[str, Any]]
) -> None:
    source = project / "mine"
    source.mkdir()
    _image(source / "new.fits", 59900.0)
    survey = survey_values("folder")
    survey["folder"].update(root=str(source))
    _params(survey, simulate_values())
    catalog.main()
    with pytest.raises(InputError, match="none of 1 science exposures has a reference: there is no reference exposure at all"):
        acquire.main()
    assert not acquire.PAIRS_PATH.exists()


@pytest.mark.parametrize("stage", [catalog.main, acquire.main])
def test_a_folder_survey_needs_its_section(
    project: Path, simulate_values: Callable[..., dict[str, Any]], survey_values: Callable[[str], dict[str, Any]], stage: Callable[[], None]
) -> None:
    _params(survey_values("simulated"), simulate_values())
    catalog.main()
    _params({**survey_values("simulated"), "kind": "folder"}, simulate_values())
    with pytest.raises(ConfigError, match=r"survey\.folder is null but survey\.kind is folder"):
        stage()
