"""Bad input: one sentence that names the thing and the next step, exit code 2 or a recorded quarantine, nothing half-written."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits

from astrid import cli
from astrid.config.compose import compose, write_params
from astrid.core.records import Calibrated
from astrid.core.runtime import exit_codes
from astrid.stages import acquire, calibrate, catalog, detect, difference, split, triplets
from support.skies import make_pair

ROOT = Path(__file__).resolve().parents[2]
SKY = make_pair(shape=(96, 96), count=25)
Run = Callable[..., str]


def write_image(path: Path, image: Calibrated, data: Any = None, **cards: Any) -> None:
    """An image as an archive gives it; a card of None is left out."""
    header = image.wcs.to_header()
    header.update({"TELESCOP": "sim", "INSTRUME": "cam", "FILTER": "r", "MJD-OBS": image.info.mjd, "EXPTIME": 60.0})
    for key, value in cards.items():
        name = key.replace("_", "-")
        if value is None:
            header.remove(name)
        else:
            header[name] = value
    fits.PrimaryHDU(image.data if data is None else data, header).writeto(path, overwrite=True)


def write_pair(folder: Path) -> None:
    write_image(folder / "s.fits", SKY.science)
    write_image(folder / "r.fits", SKY.reference)


def cut(path: Path, share: float = 0.5) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


@pytest.fixture
def astrid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a verb in an empty folder and returns its sentence; the exit code must be 2."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["astrid", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert stop.value.code == 2
        return one_sentence(capsys.readouterr().err)

    return run


def one_sentence(stderr: str) -> str:
    said = [line for line in stderr.splitlines() if line.startswith("astrid: ")]
    assert len(said) == 1, stderr
    assert "Traceback" not in stderr
    return said[0]


@pytest.fixture
def stage(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a stage that must end with exit code 2, and returns its sentence."""

    def run(module: Any) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop, exit_codes():
            module.main()
        assert stop.value.code == 2
        return one_sentence(capsys.readouterr().err)

    return run


def hdu_of(case: str) -> tuple[Any, dict[str, Any]]:
    data = SKY.science.data.copy()
    if case == "nan":
        data[:] = np.nan
    if case == "mostly nan":
        data[4:] = np.nan
    if case == "constant":
        data[:] = 7
    if case == "tiny":
        data = data[:3, :3]
    cards: dict[str, dict[str, Any]] = {
        "no WCS": {"CTYPE1": None, "CTYPE2": None},
        "wrong WCS": {"CTYPE1": "RA---XYZ"},
        "word for number": {"CRVAL1": "abc"},
        "no overlap": {"CRVAL1": 10.0},
        "mission": {"TELESCOP": "hst"},
        "filter": {"FILTER": "g"},
    }
    return data, cards.get(case, {})


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("nan", "holds no finite pixel"),
        ("mostly nan", "of the pixels are unusable"),
        ("constant", "holds the one value 7"),
        ("tiny", "holds 3 x 3 pixels and 16 x 16 are needed"),
        ("no WCS", "no celestial WCS"),
        ("wrong WCS", "broken WCS"),
        ("word for number", "CRVAL1 = 'abc', which is no number"),
        ("no overlap", "check the two headers' coordinates"),
        ("mission", "differ in survey ('hst' and 'sim')"),
        ("filter", "differ in filter ('g' and 'r')"),
    ],
)
def test_an_image_that_cannot_be_subtracted(case: str, words: str, astrid: Run, tmp_path: Path) -> None:
    data, cards = hdu_of(case)
    write_image(tmp_path / "s.fits", SKY.science, data, **cards)
    write_image(tmp_path / "r.fits", SKY.reference)
    assert words in astrid("subtract", "s.fits", "r.fits", "-o", "d.fits")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.fits", "s.fits"]


def test_files_that_are_no_images(astrid: Run, tmp_path: Path) -> None:
    write_pair(tmp_path)
    shutil.copy("s.fits", "cut.fits")
    cut(Path("cut.fits"))
    Path("text.fits").write_text("hello")
    Path("empty.fits").touch()
    for name, words in (("cut", "is truncated"), ("text", "is not a readable FITS file"), ("empty", "is not a readable FITS file")):
        sentence = astrid("subtract", f"{name}.fits", "r.fits", "-o", "d.fits")
        assert f"{name}.fits {words}" in sentence
        assert "fetch it again" in sentence
    assert "is a folder" in astrid("subtract", ".", "r.fits", "-o", "d.fits")
    assert "the same file" in astrid("subtract", "s.fits", "s.fits", "-o", "d.fits")
    assert "s.fits is not a difference product of AstrID" in astrid("detect", "s.fits", "-o", "c.parquet")
    assert not Path("d.fits").exists()
    assert not Path("c.parquet").exists()


def test_outputs_that_cannot_be(astrid: Run, tmp_path: Path) -> None:
    write_pair(tmp_path)
    before = Path("s.fits").read_bytes()
    assert "is the input of that name" in astrid("subtract", "s.fits", "r.fits", "-o", "s.fits")
    assert "that is a file" in astrid("subtract", "s.fits", "r.fits", "-o", "r.fits/d.fits")
    assert "is the other output of that name" in astrid("subtract", "s.fits", "r.fits", "-o", "d", "--picture", "d")
    assert "is the input of that name" in astrid("detect", "s.fits", "-o", "s.fits")
    Path("mine").mkdir()
    Path("mine/letter.txt").write_text("dear")
    assert "holds something else than a triplet store" in astrid("detect", "s.fits", "-o", "c.parquet", "--triplets", "mine")
    assert Path("s.fits").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "r.fits", "s.fits"]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("imaging.difference.allow_cross_mision=true", "did you mean 'imaging.difference.allow_cross_mission'?"),
        ("survey.folder.root=here", "survey.folder is null here"),
        ("imaging=nothing", "choose one of default"),
        ("imaging.difference", "is not KEY=VALUE"),
        ("seed=many", "seed = 'many' is not allowed"),
    ],
)
def test_a_wrong_configuration_key(override: str, words: str, astrid: Run, tmp_path: Path) -> None:
    write_pair(tmp_path)
    assert words in astrid("subtract", "s.fits", "r.fits", "-o", "d.fits", "-S", override)
    assert not Path("d.fits").exists()


# A user's folder


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project whose survey is the folder mine/, told apart by date."""
    (tmp_path / "data/labels").mkdir(parents=True)
    (tmp_path / "mine").mkdir()
    shutil.copy(ROOT / "data/labels/human.csv", tmp_path / "data/labels/human.csv")
    monkeypatch.chdir(tmp_path)
    configure()
    return tmp_path


def configure(*overrides: str) -> None:
    mine = ["survey=folder", "survey.folder.root=mine", "survey.folder.survey=sim", "survey.folder.role_rule.split_mjd=59500"]
    write_params(compose(ROOT / "conf", [*mine, "compute.workers=1", *overrides]), Path("params.yaml"))


def test_broken_exposures_are_set_aside_and_the_rest_go_on(project: Path) -> None:
    write_pair(Path("mine"))
    shutil.copy("mine/s.fits", "mine/cut.fits")
    cut(Path("mine/cut.fits"))
    write_image(Path("mine/nowcs.fits"), SKY.science, CTYPE1=None, CTYPE2=None)
    write_image(Path("mine/negative.fits"), SKY.science, EXPTIME=-5.0)
    write_image(Path("mine/other.fits"), SKY.science, INSTRUME="wfc")
    write_image(Path("mine/gaps.fits"), SKY.science, hdu_of("mostly nan")[0])
    for module in (catalog, acquire, calibrate, difference):
        module.main()
    aside = {entry["source"]: entry["reason"] for entry in json.loads(acquire.QUARANTINE_PATH.read_text())}
    assert set(aside) == {"cut.fits", "nowcs.fits", "negative.fits"}
    assert "exptime = -5, which must be positive" in aside["negative.fits"]
    pairs = pd.read_parquet("data/difference/pairs.parquet").set_index("pair_id")
    assert pairs["status"].to_dict() == {"s__r": "ok", "gaps__r": "quarantined", "other__": "refused"}
    assert "instrument 'wfc', only of 'cam'" in pairs.loc["other__", "reason"]
    assert "unusable" in pairs.loc["gaps__r", "reason"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "mine/t.csv is not a readable csv table"),
        ("file,role\ns.fits,science\n", "lacks the column 'path'"),
        ("path,role,fliter\ns.fits,science,r\n", "has the column 'fliter'; did you mean 'filter'?"),
        ("path,role\ns.fits,science\nr.fits,reference\ns.fits,science\n", "are both named 's'; give each its own exposure_id"),
        ("path\ns.fits\nr.fits\n", "has no role; give the column role"),
        ("path,role\ns.fits,science\nnone.fits,reference\n", "mine/none.fits does not exist"),
        ("path,role,mjd\ns.fits,science,never\nr.fits,reference,1\n", "mine/s.fits: column 'mjd' should hold float values"),
    ],
)
def test_a_wrong_folder_table(text: str, words: str, project: Path, stage: Run) -> None:
    write_pair(Path("mine"))
    Path("mine/t.csv").write_text(text)
    configure("survey.folder.table=t.csv", "survey.folder.role_rule=null")
    catalog.main()
    assert words in stage(acquire)
    assert not acquire.PAIRS_PATH.exists()


def test_an_empty_folder_and_one_that_is_not_there(project: Path, stage: Run) -> None:
    catalog.main()
    assert "No file matches **/*.fits" in stage(acquire)
    shutil.rmtree("mine")
    assert "the folder mine does not exist; set survey.folder.root" in stage(acquire)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name,ra,dec\na,400,2\n", "row 1: s_ra = 400 lies outside 0 to 360 degrees"),
        ("name,ra,dec\na,12:61:00,2\n", "is neither degrees nor sexagesimal"),
        ("name,ra,dec\na,1,2\na,3,4\n", "names 'a' more than once"),
        ("name,ra\na,1\n", "has no column for s_dec"),
    ],
)
def test_a_wrong_catalogue(text: str, words: str, project: Path, stage: Run) -> None:
    Path("mine/c.csv").write_text(text)
    configure("survey.folder.catalog=c.csv")
    assert words in stage(catalog)
    assert not Path("data/catalog").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("candidate_id,label,source\nx,2,human\n", "human.csv: 1 labels are neither 1 nor 0, 2 for x first"),
        ("candidate_id,label,source,foo\nx,1,human,3\n", "human.csv has the column 'foo'"),
        ("candidate_id,label,source\nx,1,divine\n", "'divine' is no source of labels"),
        ("", "human.csv is not a readable CSV table"),
    ],
)
def test_wrong_labels_of_people(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "human.csv"
    path.write_text(text)
    with pytest.raises(triplets.InputError, match=re.escape(words)):
        triplets.read_human(path)


# Products that are damaged between two stages


@pytest.fixture
def subtracted(project: Path) -> Path:
    write_pair(Path("mine"))
    for module in (catalog, acquire, calibrate, difference):
        module.main()
    return project


def test_a_damaged_product_is_made_again(subtracted: Path) -> None:
    for path in (Path("data/calibrated/s.fits"), Path("data/difference/s__r.fits"), Path("data/raw/sim/field/science/s.fits")):
        good = path.read_bytes()
        cut(path)
        for module in (acquire, calibrate, difference):
            module.main()
        assert path.read_bytes() == good


def test_a_damaged_product_is_set_aside_or_named(subtracted: Path, stage: Run) -> None:
    product = Path("data/difference/s__r.fits")
    content = bytearray(product.read_bytes())
    content[len(content) // 2] ^= 0xFF
    product.write_bytes(content)
    detect.main()
    (problem,) = json.loads(detect.REPORT.read_text())["problems"]
    assert "the file is corrupt, make it again" in problem["reason"]
    cut(detect.OUTPUT)
    assert "candidates.parquet is not a readable Parquet file" in stage(triplets)
    cut(Path("data/pairs/pairs.parquet"))
    assert "pairs.parquet is not a readable Parquet file" in stage(difference)


def test_a_split_without_both_classes(subtracted: Path, stage: Run) -> None:
    detect.main()
    triplets.main()
    assert "of 0 labelled triplets in 0 groups leaves train without both classes" in stage(split)
    assert not split.SPLIT_TABLE.exists()


def test_params_that_are_not_yaml(project: Path, stage: Run) -> None:
    Path("params.yaml").write_text("a: [1\n")
    assert "params.yaml is no readable YAML" in stage(catalog)
    Path("params.yaml").unlink()
    assert "run `astrid params`" in stage(catalog)


# Ctrl-C


def test_ctrl_c_ends_with_130_and_the_next_run_goes_on(project: Path) -> None:
    write_pair(Path("mine"))
    for number in range(12):
        shutil.copy("mine/s.fits", f"mine/s{number}.fits")
    for module in (catalog, acquire):
        module.main()
    command = [sys.executable, "-m", "astrid.stages.calibrate"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 60
    while not list(Path("data").glob("calibrated/*.json")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert one_sentence(said) == "astrid: interrupted; run the same command again to go on from here."
    assert not list(Path("data").rglob("*.part"))
    done = {path: path.stat().st_mtime_ns for path in Path("data/calibrated").glob("*.fits.json")}
    assert len(done) < 14
    calibrate.main()
    assert len(list(Path("data/calibrated").glob("*.fits"))) == 14
    assert all(path.stat().st_mtime_ns == when for path, when in done.items())
