"""Triplets as plain arrays, and what a machine without a package says of inputs that need it."""

import csv
import subprocess
import sys

import numpy as np
import pytest
from astropy.io import fits

from astrid.commands import device
from astrid.commands import score as command
from astrid.core.errors import InputError, MissingDependencyError
from astrid.io.tables import SCORES, read_table
from astrid.serving.engine import ScoringEngine
from astrid.serving.inputs import needs_candidates
from astrid.serving.score import COLUMNS, score_inputs

BLOCKED = ("torch", "mlflow", "pandas", "pyarrow", "pydantic", "click", "rich", "scipy", "sklearn", "fastavro", "cramjam", "onnx", "yaml")


@pytest.fixture
def stamps():
    out = np.random.default_rng(0).normal(size=(5, 3, 63, 63)).astype(np.float32)
    out[::2, 2, 27:36, 27:36] += 5
    return out


def test_the_columns_of_csv_are_those_of_the_table():
    assert [column.name for column in SCORES.columns] == list(COLUMNS)


def test_arrays_in_npy_and_fits_give_the_same_rows_as_the_engine(tiny_model, tmp_path, stamps):
    np.save(tmp_path / "many.npy", stamps.astype(np.float64))
    fits.PrimaryHDU(stamps[0]).writeto(tmp_path / "one.fits")
    assert not needs_candidates(tmp_path / "one.fits")
    engine = ScoringEngine.load(tiny_model)
    scored = score_inputs([tmp_path / "many.npy", tmp_path / "one.fits"], tmp_path / "out.csv", engine, batch=2)
    expected = engine.score(stamps)
    with (tmp_path / "out.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["candidate_id"] for row in rows] == [*(f"many:{number}" for number in range(5)), "one:0"]
    np.testing.assert_allclose([float(row["score"]) for row in rows], [*expected.calibrated, expected.calibrated[0]], rtol=1e-6)
    assert [row["real"] for row in rows] == [str(bool(value)) for value in [*expected.real, expected.real[0]]]
    score_inputs([tmp_path / "many.npy"], tmp_path / "out.parquet", engine, batch=2)
    table = read_table(tmp_path / "out.parquet", SCORES)
    np.testing.assert_array_equal(table["score"], [row["score"] for row in scored.rows[:5]])


def test_a_row_without_a_score_is_empty_in_csv_with_its_reason(tiny_model, tmp_path, stamps):
    stamps[1, 0] = np.nan
    np.save(tmp_path / "a.npy", stamps)
    score_inputs([tmp_path / "a.npy"], tmp_path / "out.csv", ScoringEngine.load(tiny_model), batch=8)
    with (tmp_path / "out.csv").open() as stream:
        row = list(csv.DictReader(stream))[1]
    assert (row["score"], row["raw_score"], row["reason"]) == ("", "", "a stamp has no finite pixel.")


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (np.zeros((2, 3, 61, 61), np.float32), r"holds float32 of the shape \(2, 3, 61, 61\)"),
        (np.zeros((2, 3, 63, 63), np.int16), "holds int16 of the shape"),
        (np.zeros((63, 63), np.float32), r"triplets are floating \(n, 3, 63, 63\)"),
    ],
)
def test_an_array_that_holds_no_triplets_is_refused(tiny_model, tmp_path, array, sentence):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(InputError, match=sentence):
        score_inputs([tmp_path / "a.npy"], tmp_path / "out.csv", ScoringEngine.load(tiny_model), batch=8)
    assert not (tmp_path / "out.csv").exists()


def test_a_file_that_is_no_array_is_refused(tiny_model, tmp_path):
    (tmp_path / "a.npy").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"is not a readable \.npy array"):
        score_inputs([tmp_path / "a.npy"], tmp_path / "out.csv", ScoringEngine.load(tiny_model), batch=8)


def test_what_a_device_lacks_is_named_with_another_way(tiny_model, tmp_path, monkeypatch):
    engine = ScoringEngine.load(tiny_model)
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "index.json").write_text("{}")
    (tmp_path / "a.avro").write_bytes(b"Obj\x01" + bytes(64))
    for name in ("pandas", "pyarrow", "fastavro", "astrid.io.shards"):
        monkeypatch.setitem(sys.modules, name, None)
    for given, sentence in (
        ("store", r"Triplet stores cannot be read without pandas and pyarrow; .*shard-00000\.npy"),
        ("a.avro", "Alert packets cannot be read without fastavro and cramjam"),
    ):
        with pytest.raises(MissingDependencyError, match=sentence):
            score_inputs([tmp_path / given], tmp_path / "out.csv", engine, batch=8)
    with pytest.raises(MissingDependencyError, match=r"cannot be written as Parquet without pandas and pyarrow; name a \.csv file"):
        score_inputs([tmp_path / "a.avro"], tmp_path / "out.parquet", engine, batch=8)


def test_evidence_needs_a_parquet_table_and_the_registry_needs_mlflow(tiny_model, tmp_path, stamps, monkeypatch):
    np.save(tmp_path / "a.npy", stamps)
    with pytest.raises(InputError, match=r"is CSV, and ranking against evidence reads the scores back from Parquet"):
        command.score([tmp_path / "a.npy"], tmp_path / "o.csv", model=str(tiny_model), evidence=tmp_path / "e.csv")
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(MissingDependencyError, match="names a model of the registry, which needs MLflow; give a model folder"):
        command.score([tmp_path / "a.npy"], tmp_path / "o.csv", model="models:/astrid-realbogus@onnx-champion")


def test_numpy_astropy_and_a_runtime_are_enough_for_the_command_line(tiny_model, tmp_path, stamps):
    np.save(tmp_path / "a.npy", stamps)
    fits.PrimaryHDU(stamps).writeto(tmp_path / "b.fits")
    script = (
        f"import sys; sys.modules.update(dict.fromkeys({BLOCKED!r}))\n"
        f"sys.argv = ['astrid', 'score', 'a.npy', 'b.fits', '-o', 'out.csv', '--model', {str(tiny_model)!r}]\n"
        "from astrid.__main__ import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "10 of 10 scored" in done.stdout
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 11


def test_the_devices_command_line_has_the_same_exit_codes(tiny_model, tmp_path, stamps, capsys):
    np.save(tmp_path / "a.npy", stamps)
    arguments = ["score", str(tmp_path / "a.npy"), "-o", str(tmp_path / "o.csv"), "--model", str(tiny_model)]
    with pytest.raises(SystemExit, match="0"):
        device.main(arguments)
    assert "5 of 5 scored" in capsys.readouterr().out
    for wrong in ([*arguments, "--batch", "0"], [*arguments, "--target", "abacus"], ["train"], [*arguments[:-1], str(tmp_path)]):
        with pytest.raises(SystemExit, match="2"):
            device.main(wrong)


def test_a_verb_whose_packages_are_not_there_is_one_sentence(tmp_path):
    script = (
        "import sys; sys.modules['pydantic'] = None; sys.argv = ['astrid', 'params', '--check']\nfrom astrid.__main__ import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("astrid: this verb needs pydantic, which is not installed here")
    assert "Traceback" not in done.stderr
