import json
import shutil

import pytest
import yaml

from astrid.core.errors import GateError, InputError
from astrid.registry import promote
from astrid.stages import register

EVALUATION = {"test.aucpr": 0.95, "test.recall": 0.97, "test.ece": 0.02}


@pytest.fixture
def project(tmp_path, monkeypatch, tiny_model, project_root):
    """A project in which everything before `register` has run."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_model, "models/export")
    manifest = json.loads((tiny_model / "model.json").read_text())
    manifest["data"]["training"] = "key of the training"
    put("models/export/model.json", manifest)
    put("models/evaluate/operating_point.json", {"threshold": 0.5})
    put("reports/evaluate.json", EVALUATION)
    put("reports/split.json", {"audit": {"leaks": {"event": 0, "cell": 0, "exposure": 0, "stamp": 0}}})
    put("reports/export.json", {"largest_difference": 1e-7})
    put("data/splits/splits.parquet", "rows of the test part")
    section = yaml.safe_load((project_root / "conf/registry/default.yaml").read_text())
    put("params.yaml", {"registry": section | {"model_name": f"stage-{tmp_path.name}"}})
    return f"stage-{tmp_path.name}"


def put(path, content):
    register.write_json(register.Path(path), content)


def report():
    return json.loads(register.REPORT.read_text())


def test_a_good_model_becomes_the_champion_and_a_second_run_changes_nothing(project):
    register.main()
    first = register.REPORT.read_bytes()
    assert report()["promoted"]
    assert set(report()["aliases"]) == {"candidate", "onnx-champion"}
    register.main()
    assert register.REPORT.read_bytes() == first
    assert len(promote.list_models(project)) == 1
    assert promote.list_models(project)["aucpr"][0] == 0.95
    version = promote.champion(project)
    assert version.tags["astrid.from.training"] == "key of the training"


def test_a_refused_model_fails_the_stage_and_leaves_its_numbers(project):
    put("reports/evaluate.json", EVALUATION | {"test.aucpr": 0.5})
    with pytest.raises(GateError, match=r"1 of 6 gates refuse: the AUCPR on test is 0\.5, below 0\.8"):
        register.main()
    assert not report()["promoted"]
    assert report()["gates"]["aucpr"]["measured"] == 0.5
    assert promote.champion(project) is None
    assert promote.list_models(project)["aliases"][0] == "candidate"


def test_without_fatal_a_refused_model_stays_a_candidate(project, caplog):
    params = yaml.safe_load(open("params.yaml"))  # noqa: PTH123, SIM115
    params["registry"]["fatal"] = False
    put("params.yaml", params)
    put("reports/export.json", {"largest_difference": 0.1})
    with caplog.at_level("WARNING", logger="astrid"):
        register.main()
    assert "stays a candidate" in caplog.text
    assert promote.champion(project) is None


@pytest.mark.parametrize(("test_rows", "refuses"), [("rows of the test part", True), ("other rows", False)])
def test_a_successor_is_compared_with_the_champion_on_the_same_test_rows_only(project, test_rows, refuses):
    register.main()
    manifest = json.loads(open("models/export/model.json").read())  # noqa: PTH123, SIM115
    put("models/export/model.json", manifest | {"threshold": 0.4})
    put("reports/evaluate.json", EVALUATION | {"test.aucpr": 0.9})
    put("data/splits/splits.parquet", test_rows)
    if refuses:
        with pytest.raises(GateError, match=r"champion's less the margin is 0\.9, below 0\.94"):
            register.main()
        assert promote.champion(project).version == 1
    else:
        register.main()
        assert promote.champion(project).version == 2


def test_an_absent_report_names_its_stage(project):
    register.SPLIT.unlink()
    with pytest.raises(InputError, match=r"split\.json does not exist; run the stage split"):
        register.main()


@pytest.mark.parametrize(("content", "sentence"), [("{", "is not readable JSON"), ("[]", "holds no mapping")])
def test_a_damaged_report_is_refused(project, content, sentence):
    register.EVALUATION.write_text(content)
    with pytest.raises(InputError, match=sentence):
        register.main()
