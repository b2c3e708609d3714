from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from astrid.config.schema.survey import FolderConfig, SurveyConfig
from astrid.config.validate import validate
from astrid.core.errors import ConfigError, InputError
from astrid.io.headers import header_mjd, header_number, header_text
from astrid.sky.folder import read_folder, scan_folder
from support import missions as made

Config = Callable[..., FolderConfig]


def _hdu(kind: Any = fits.PrimaryHDU, *, wcs: bool = True, value: float | None = None, **cards: Any) -> Any:
    data = np.random.default_rng(1).normal(100, 5, (20, 24)).astype(np.float32) if value is None else np.full((20, 24), value, np.float32)
    hdu = kind(data)
    if wcs:
        for key, card in (("CTYPE", ("RA---TAN", "DEC--TAN")), ("CRVAL", (30.0, 10.0)), ("CRPIX", (12.5, 10.5)), ("CDELT", (-1e-4, 1e-4))):
            hdu.header[f"{key}1"], hdu.header[f"{key}2"] = card
    base = {"INSTRUME": "cam", "DETECTOR": "c1", "FILTER": "r", "MJD-OBS": 59000.0, "EXPTIME": 864.0, "PROGRAM": "SCIENCE"}
    given = {**base, **{key.replace("_", "-"): card for key, card in cards.items()}}
    hdu.header.update({key: card for key, card in given.items() if card is not None})
    return hdu


@pytest.fixture
def folder_cfg(tmp_path: Path, survey_values: Callable[[str], dict[str, Any]]) -> Config:
    def build(**changes: Any) -> FolderConfig:
        values = survey_values("folder")
        rule = {"by": "keyword", "keyword": "PROGRAM", "science": ["SCIENCE"], "reference": ["TEMPLATE"], "split_mjd": 0.0}
        values["folder"] = {**values["folder"], "root": str(tmp_path), "survey": "mine", "unit": "electron", "role_rule": rule, **changes}
        section = validate(SurveyConfig, values, path="survey").folder
        assert section is not None
        return section

    return build


def test_header_rule_fills_every_column(tmp_path: Path, folder_cfg: Config) -> None:
    _hdu(OBJECT="M 31", BUNIT="Jy").writeto(tmp_path / "a.fits")
    _hdu(PROGRAM="TEMPLATE", MJD_OBS=58000.0).writeto(tmp_path / "b.fits")
    frame = read_folder(folder_cfg()).set_index("exposure_id")
    assert frame["role"].to_dict() == {"a": "science", "b": "reference"}
    row = frame.loc["a"]
    assert (row["survey"], row["instrument"], row["detector"], row["filter"], row["unit"]) == ("mine", "cam", "c1", "r", "Jy")
    assert (row["field_id"], frame.loc["b", "field_id"]) == ("M-31", "field")
    assert row["mjd"] == pytest.approx(59000.005)
    assert (row["s_ra"], row["s_dec"]) == pytest.approx((30.0, 10.0))


def test_date_rule_compressed_files_and_companions(tmp_path: Path, folder_cfg: Config) -> None:
    _hdu().writeto(tmp_path / "new.fits")
    (tmp_path / "new.fits.gz").write_bytes(gzip.compress((tmp_path / "new.fits").read_bytes()))
    (tmp_path / "new.fits").unlink()
    _hdu(fits.CompImageHDU, MJD_OBS=None, DATE_OBS="2015-01-01T00:00:00").writeto(tmp_path / "old.fits.fz")
    _hdu().writeto(tmp_path / "new.noise.fits")
    rule = {"by": "date", "keyword": "", "science": [], "reference": [], "split_mjd": 58000.0}
    frame = read_folder(folder_cfg(role_rule=rule)).set_index("exposure_id")
    assert frame["role"].to_dict() == {"new": "science", "old": "reference"}
    assert frame.loc["old", "mjd"] == pytest.approx(57023.005)
    assert (frame.loc["new", "noise_path"], frame.loc["old", "noise_path"]) == ("new.noise.fits", "")


def test_table_wins_over_the_header_and_names_extensions(tmp_path: Path, folder_cfg: Config) -> None:
    fits.HDUList([fits.PrimaryHDU(), _hdu(fits.ImageHDU, EXTNAME="N1"), _hdu(fits.ImageHDU, EXTNAME="N2")]).writeto(tmp_path / "m.fits")
    (tmp_path / "t.csv").write_text("path,hdu,role,filter,mjd\nm.fits,N1,science,B,59001\nm.fits,2,reference,,\n")
    frame = read_folder(folder_cfg(table="t.csv", role_rule=None))
    assert frame["exposure_id"].tolist() == ["m-N1", "m-2"]
    assert frame["filter"].tolist() == ["B", "r"]
    assert frame["mjd"].tolist() == pytest.approx([59001, 59000.005])
    assert frame["hdu"].tolist() == ["N1", "2"]


def test_a_table_may_name_a_file_elsewhere_with_its_companion_beside_it(tmp_path: Path, folder_cfg: Config) -> None:
    inside, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    inside.mkdir()
    elsewhere.mkdir()
    _hdu().writeto(elsewhere / "a.fits")
    _hdu().writeto(elsewhere / "a.noise.fits")
    (inside / "t.csv").write_text(f"path,role\n{elsewhere / 'a.fits'},science\n")
    row = read_folder(folder_cfg(root=str(inside), table="t.csv", role_rule=None)).iloc[0]
    assert row["noise_path"] == (elsewhere / "a.noise.fits").as_posix()


@pytest.mark.parametrize(
    ("hdu", "reason"),
    [
        ({"wcs": False}, "no celestial WCS"),
        ({"value": float("nan")}, "holds no finite pixel"),
        ({"value": 7.0}, "holds the one value 7"),
        ({"FILTER": "CLEAR"}, "has no filter in the keywords FILTER, FILTER1"),
        ({"INSTRUME": None}, r"has no instrument in the keywords .* survey\.folder\.keywords\.instrument"),
        ({"MJD_OBS": None}, "has no date in the keywords MJD-OBS"),
        ({"MJD_OBS": "yesterday"}, "date 'yesterday' is neither"),
        ({"PROGRAM": "DOME"}, r"has PROGRAM = 'DOME', which survey\.folder\.role_rule does not know \(SCIENCE, TEMPLATE\)"),
    ],
)
def test_broken_files_are_set_aside_and_the_rest_go_on(tmp_path: Path, folder_cfg: Config, hdu: dict[str, Any], reason: str) -> None:
    _hdu().writeto(tmp_path / "good.fits")
    _hdu(**hdu).writeto(tmp_path / "bad.fits")
    scan = scan_folder(folder_cfg())
    assert scan.exposures["exposure_id"].tolist() == ["good"]
    assert [problem.source for problem in scan.problems] == ["bad.fits"]
    with pytest.raises(InputError, match=reason):
        raise InputError(scan.problems[0].reason)


def test_truncated_and_missing_files_are_set_aside(tmp_path: Path, folder_cfg: Config) -> None:
    _hdu().writeto(tmp_path / "good.fits")
    (tmp_path / "cut.fits").write_bytes((tmp_path / "good.fits").read_bytes()[:4000])
    (tmp_path / "t.csv").write_text(
        "path,role,noise_path\ngood.fits,science,\ncut.fits,science,\ngone.fits,science,\ngood.fits,sky,\ngood.fits,science,gone.fits\n"
    )
    scan = scan_folder(folder_cfg(table="t.csv"))
    assert scan.exposures["path"].tolist() == ["good.fits"]
    reasons = [problem.reason for problem in scan.problems]
    for reason, words in zip(
        reasons, ("cut.fits", "gone.fits does not exist", "the role 'sky'", "names the noise file gone.fits"), strict=True
    ):
        assert words in reason


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (None, "holds no usable exposure. No file matches"),
        ("name\nx\n", "lacks the column 'path'; it has name"),
        ("path,role\n,science\n", "has no path in row 1"),
        ("path,role\nx.fits,science\n", "holds no usable exposure. The first of 1 problems: .*x.fits does not exist"),
    ],
)
def test_nothing_to_work_with_is_an_error(tmp_path: Path, folder_cfg: Config, table: str | None, message: str) -> None:
    if table is not None:
        (tmp_path / "t.csv").write_text(table)
    with pytest.raises(InputError, match=message):
        scan_folder(folder_cfg(table="t.csv" if table is not None else None))


def test_other_mistakes_are_errors(tmp_path: Path, folder_cfg: Config) -> None:
    with pytest.raises(InputError, match=r"the folder .*nowhere does not exist; set survey\.folder\.root"):
        scan_folder(folder_cfg(root=str(tmp_path / "nowhere")))
    with pytest.raises(ConfigError, match="needs a table or a role_rule"):
        scan_folder(folder_cfg(role_rule=None))
    (tmp_path / "b").mkdir()
    _hdu().writeto(tmp_path / "a.fits")
    _hdu().writeto(tmp_path / "b/a.fits")
    with pytest.raises(InputError, match=r"a.fits and b/a.fits in .* are both named 'a'; give each its own exposure_id"):
        scan_folder(folder_cfg())


def test_header_helpers() -> None:
    header = fits.Header({"A": "CLEAR", "B": " r ", "N": "x", "M": 2.5, "JD": 2458849.5})
    assert header_text(header, ("A", "B")) == "r"
    assert header_text(header, ("A", "Z")) is None
    assert header_number(header, ("Z", "N", "M")) == 2.5
    assert header_number(header, ("Z",)) is None
    assert header_mjd(header, ("JD",), float("nan")) == 58849.0
    assert header_mjd(header, ("Z",), 1.0) is None


def test_every_snapshot_of_a_mission_is_an_exposure_with_its_companions(tmp_path: Path, folder_cfg: Config) -> None:
    made.uvot(tmp_path)
    made.panstarrs(tmp_path)
    rule = {"by": "date", "keyword": "", "science": [], "reference": [], "split_mjd": 56500.0}
    frame = read_folder(folder_cfg(role_rule=rule, exclude=[])).set_index("exposure_id")
    stem = "sw00032081001uw1_sk"
    stack = "rings-v3-skycell-1725-051-stk-i-unconv"
    assert frame.index.tolist() == [stack, f"{stem}-1", f"{stem}-2", f"{stem}-3"]
    assert frame["hdu"].tolist() == ["", "1", "2", "3"]
    assert frame["survey"].tolist() == ["ps1", "swift", "swift", "swift"]
    assert frame["role"].tolist() == ["science" if mjd > 56500 else "reference" for mjd in frame["mjd"]]
    assert frame.loc[f"{stem}-2", "exptime"] == 600.0
    assert frame.loc[f"{stem}-2", "exposure_path"] == "sw00032081001uw1_ex.img.gz"
    assert frame.loc[stack, "variance_path"].endswith(".unconv.wt.fits")
    assert frame.loc[stack, "mask_path"].endswith(".unconv.mask.fits")
    assert frame["calibrated"].all()
