from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner

from astrid.cli import cli
from astrid.config.schema.archive import CatalogConfig, CatalogSource
from astrid.config.schema.survey import SurveyConfig
from astrid.config.validate import validate
from astrid.core.errors import ConfigError, InputError
from astrid.io.tables import CATALOG, read_table
from astrid.sky.catalog.compile import Compiled, account, compile_catalogs
from astrid.stages import catalog as stage

MINE = """\
name,ra,dec,type,date,redshift,host
first,10.0,20.0,,2004-05-01,,
lost,,20.0,,,,
2004xy,50.0,-30.0,Ia,2004-06-01,0.02,NGC 1
"""
OSC = """\
Name,Aliases,Disc. Date,R.A.,Dec.,z,Type,Host Name
SN2004ab,first,2004/05,00:40:00.05,+20:00:00,0.5,II P?,M 1
SN2004XY,,2004/06/02,03:20:00,-30:00:00,0.03,Ia Pec,
SN2001q,,2003/03/03,05:00:00,+10:00:00,,Ib,
SN2001q,,2001/03/03,05:00:40,+10:00:00,,Ib,
"""


@pytest.fixture
def cfg(survey_values: Callable[[str], dict[str, Any]]) -> CatalogConfig:
    survey = validate(SurveyConfig, survey_values("mast"), path="survey")
    assert survey.archive is not None
    return survey.archive.catalog


def _sources(folder: Path) -> tuple[CatalogSource, ...]:
    (folder / "mine.csv").write_text(MINE)
    (folder / "osc.csv").write_text(OSC)
    return (CatalogSource(format="table", path=str(folder / "mine.csv")), CatalogSource(format="osc", path=str(folder / "osc.csv")))


def _compile(folder: Path, cfg: CatalogConfig, **changes: Any) -> Compiled:
    return compile_catalogs(_sources(folder), replace(cfg, **changes))


def test_the_earlier_catalogue_wins_field_by_field_and_every_field_says_whence(tmp_path: Path, cfg: CatalogConfig) -> None:
    events = _compile(tmp_path, cfg).catalog.set_index("object_id")
    first = events.loc["first"]
    assert (first["s_ra"], first["discovery_mjd"], first["transient_type"], first["redshift"], first["host"]) == (
        10.0, 53126.0, "SN IIP", 0.5, "M 1",
    )  # fmt: skip
    assert first[["position_source", "discovery_source", "type_source", "redshift_source", "host_source"]].tolist() == [
        "mine.csv", "mine.csv", "osc.csv", "osc.csv", "osc.csv",
    ]  # fmt: skip
    assert (first["source"], list(first["aliases"])) == ("mine.csv; osc.csv", ["SN2004ab"])
    assert (first["discovery_precision"], first["type_uncertain"], first["type_peculiar"]) == (1.0, True, False)
    other = events.loc["2004xy"]
    assert (other["redshift"], other["type_peculiar"], other["type_source"], other["host_source"]) == (0.02, False, "mine.csv", "mine.csv")
    assert list(other["aliases"]) == []  # another spelling is no other name


def test_every_row_is_an_event_merged_or_refused(tmp_path: Path, cfg: CatalogConfig) -> None:
    got = _compile(tmp_path, cfg)
    assert account(got.report) == "7 rows = 3 events + 2 merged + 2 refused"
    assert got.merged[["object_id", "name", "row", "into", "by", "gave"]].to_numpy().tolist() == [
        ["first", "SN2004ab", 1, "first", "name", "type redshift host"],
        ["2004xy", "SN2004xy", 2, "2004xy", "name", ""],
    ]
    assert got.merged["separation"].tolist() == [pytest.approx(0.75 * np.cos(np.radians(20)), abs=1e-3), 0.0]
    assert got.refused[["source", "row"]].to_numpy().tolist() == [["mine.csv", 2], ["osc.csv", 4]]
    assert got.refused["reason"][0].startswith("s_ra is empty")
    assert got.refused["reason"][1] == "its name is that of row 3 of osc.csv, 591 arcsec away; correct the name or the place."
    assert got.report["year_disagrees"] == [{"object_id": "SN2001Q", "named": 2001, "discovered": 2003, "discovery_mjd": 52701.0}]
    assert [one["rows"] for one in got.report["sources"]] == [3, 4]


def test_the_settings_keep_types_with_subtypes_a_window_and_the_latest(tmp_path: Path, cfg: CatalogConfig) -> None:
    assert _compile(tmp_path, cfg, types=("SN II",)).catalog["object_id"].tolist() == ["first"]
    assert _compile(tmp_path, cfg, types=("I",)).catalog["object_id"].tolist() == ["2004xy", "SN2001Q"]
    assert _compile(tmp_path, cfg, discovered=(53000.0, 53130.0)).catalog["object_id"].tolist() == ["first"]
    got = _compile(tmp_path, cfg, types=("SN",), limit=2)
    assert got.catalog["object_id"].tolist() == ["first", "2004xy"]
    assert got.report["left_out"] == {"types": 0, "discovered": 0, "limit": 1}
    assert account(got.report) == "7 rows = 3 events + 2 merged + 2 refused; 2 kept, left out by limit 1"
    with pytest.raises(ConfigError, match=r"survey\.archive\.catalog\.types names the type 'Iz'"):
        _compile(tmp_path, cfg, types=("Iz",))


def test_a_compiled_catalogue_compiles_to_itself(tmp_path: Path, cfg: CatalogConfig) -> None:
    first = _compile(tmp_path, cfg).catalog
    first.to_parquet(tmp_path / "again.parquet")
    second = compile_catalogs((CatalogSource(format="table", path=str(tmp_path / "again.parquet")),), cfg)
    same = [
        "object_id",
        "s_ra",
        "s_dec",
        "discovery_mjd",
        "discovery_precision",
        "transient_type",
        "type_uncertain",
        "type_peculiar",
        "host",
    ]
    pd.testing.assert_frame_equal(second.catalog[same], first[same])
    assert "SN2004ab" in list(second.catalog["aliases"][0])
    assert second.report["merged"] == second.report["refused"] == 0


def test_files_of_one_name_are_told_apart_by_their_paths(tmp_path: Path, cfg: CatalogConfig) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "sn.csv").write_text(f"name,ra,dec\n{name},{ord(name)},0\n")
    got = compile_catalogs([CatalogSource(format="table", path=str(tmp_path / name / "sn.csv")) for name in "ab"], cfg)
    assert got.catalog["source"].tolist() == [str(tmp_path / name / "sn.csv") for name in "ab"]


def test_a_table_without_coordinates_is_named(tmp_path: Path, cfg: CatalogConfig) -> None:
    (tmp_path / "a.csv").write_text("name,type\nA,Ia\n")
    with pytest.raises(InputError, match=r"a\.csv has no column for s_ra \(looked for s_ra, ra"):
        compile_catalogs((CatalogSource(format="table", path=str(tmp_path / "a.csv")),), cfg)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, survey_values: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    survey = survey_values("mast")
    survey["archive"]["catalog"]["sources"] = [{"format": one.format, "path": Path(one.path).name} for one in _sources(tmp_path)]
    return survey


def test_the_stage_writes_the_catalogue_and_what_became_of_the_rows(project: dict[str, Any]) -> None:
    Path("params.yaml").write_text(yaml.safe_dump({"survey": project}))
    stage.main()
    files = (stage.OUTPUT, stage.MERGED, stage.REFUSED, stage.REPORT)
    before = [path.read_bytes() for path in files]
    stage.main()
    assert [path.read_bytes() for path in files] == before
    events = read_table(stage.OUTPUT, CATALOG)
    report = json.loads(stage.REPORT.read_text())
    merged, refused = pd.read_csv(stage.MERGED), pd.read_csv(stage.REFUSED)
    assert report["rows"] == len(events) + len(merged) + len(refused) == 7

    project["kind"] = "alerts"
    Path("params.yaml").write_text(yaml.safe_dump({"survey": project}))
    stage.main()
    assert [path.exists() for path in files] == [True, False, False, False]


def test_the_stage_needs_its_section_and_an_event(project: dict[str, Any]) -> None:
    project["archive"]["catalog"]["types"] = ["SLSN"]
    Path("params.yaml").write_text(yaml.safe_dump({"survey": project}))
    with pytest.raises(InputError, match=r"no event is left of 7 rows = .*left out by types 3"):
        stage.main()
    project["archive"] = None
    Path("params.yaml").write_text(yaml.safe_dump({"survey": project}))
    with pytest.raises(ConfigError, match=r"survey\.archive is null but survey\.kind is archive"):
        stage.main()


def test_the_verb_detects_formats_and_prints_the_sums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _sources(tmp_path)
    run = CliRunner().invoke(cli, ["catalog", "mine.csv", "osc.csv", "-o", "out/sn.parquet"], catch_exceptions=False)
    assert run.exit_code == 0
    assert "7 rows = 3 events + 2 merged + 2 refused" in run.output
    for line in (
        r"mine.csv .* table +3 +0 +1 ",
        r"osc.csv .* osc +4 +2 +1 ",
        r"SN Ia +1 ",
        r"2004 +2\n",
        r"1 designations tell another year",
    ):
        assert pd.Series([run.output]).str.contains(line, regex=True)[0], line
    assert len(read_table(Path("out/sn.parquet"), CATALOG)) == 3
    assert {path.name for path in Path("out").iterdir()} == {"sn.parquet", "sn.merged.csv", "sn.refused.csv", "sn.json"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.csv"], "none.csv does not exist"),
        (["osc.csv", "--format", "tns"], r"osc\.csv has no column for s_ra \(looked for ra\)"),
        (["osc.csv", "mine.csv", "osc.csv", "--format", "osc", "--format", "table"], "2 formats are given for 3 sources"),
        (["notes.txt"], "notes.txt is of no known format"),
        (["out.parquet"], "the output out.parquet is the input of that name"),
    ],
)
def test_what_the_verb_cannot_do_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    _sources(tmp_path)
    Path("notes.txt").write_text("words")
    Path("out.parquet").write_text("")
    with pytest.raises(InputError, match=message):
        CliRunner().invoke(cli, ["catalog", *arguments, "-o", "out.parquet"], catch_exceptions=False)


def test_the_verb_writes_parquet_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _sources(tmp_path)
    with pytest.raises(InputError, match=r"sn\.csv does not end in \.parquet, .* name it sn\.parquet"):
        CliRunner().invoke(cli, ["catalog", "mine.csv", "-o", "sn.csv"], catch_exceptions=False)
    assert not Path("sn.csv").exists()
