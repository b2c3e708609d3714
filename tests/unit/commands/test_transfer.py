from pathlib import Path

import pytest

from astrid.commands.transfer import Training, parse, read_stamps
from astrid.core.errors import InputError


@pytest.fixture
def project(tmp_path):
    for name in ("data/triplets/index.json", "data/splits/splits.parquet"):
        path = tmp_path / "runs" / name
        path.parent.mkdir(parents=True)
        path.touch()
    return tmp_path / "runs"


def test_a_training_is_a_name_and_its_folders(project):
    assert parse(f"wide={project}+{project}") == Training("wide", (project, project))


@pytest.mark.parametrize("text", ["wide", "wide=", "=runs", ""])
def test_other_words_are_refused(text):
    with pytest.raises(InputError, match="write NAME=FOLDER"):
        parse(text)


def test_a_folder_without_triplets_is_refused(project):
    (project / "data/splits/splits.parquet").unlink()
    with pytest.raises(InputError, match="run `dvc repro split` there first"):
        parse(f"wide={project}")


def test_files_that_are_no_alerts_are_refused(tmp_path):
    path = Path(tmp_path / "x.avro")
    path.write_bytes(b"not an alert")
    with pytest.raises(InputError, match="is an alert with stamps"):
        read_stamps([path])
