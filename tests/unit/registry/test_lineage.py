"""What dvc.lock says is checked against the disk and against itself, and leads back to the raw files."""

import hashlib
import json

import pytest
import yaml

from astrid.core.errors import InputError
from astrid.registry import lineage


def md5(text):
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def folder_digest(files):
    """As DVC 3 writes it: the MD5 of the JSON list of its files, sorted by path."""
    entries = [{"md5": md5(text), "relpath": name} for name, text in files]
    return md5(json.dumps(entries)) + ".dir"


RAW = (("a/one.fits", "1"), ("a_two.fits", "2"), ("exposures.parquet", "t"))


@pytest.fixture
def project(tmp_path):
    for name, text in RAW:
        path = tmp_path / "data/raw" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "model").write_text("m")
    return tmp_path


def lock(raw=None, seen=None):
    raw = raw or folder_digest(RAW)
    return {
        "acquire": {"outs": [{"path": "data/raw", "md5": raw, "nfiles": 3}]},
        "train": {
            "deps": [{"path": "data/raw", "md5": seen or raw}, {"path": "src/train.py", "md5": "x"}, {"path": "data/raw/a", "md5": "y"}],
            "outs": [{"path": "model", "md5": md5("m")}],
        },
    }


def test_files_and_folders_have_the_digests_that_dvc_gives_them(project):
    assert lineage.dvc_digest(project / "model") == md5("m")
    assert lineage.dvc_digest(project / "data/raw") == folder_digest(RAW)
    assert lineage.dvc_digest(project / "nothing") == ""


def test_nothing_is_changed_after_a_clean_run(project):
    assert lineage.changed(lock(), ["model", "data/raw"], project) == []


def test_a_product_that_was_touched_or_that_no_stage_made_is_named(project):
    (project / "model").write_text("other")
    (project / "own").write_text("x")
    assert lineage.changed(lock(), ["model", "data/raw", "own"], project) == ["model", "own"]


def test_a_stage_that_ran_on_other_data_than_is_here_is_named(project):
    assert lineage.changed(lock(seen="0" * 32 + ".dir"), ["model"], project) == ["train <- data/raw"]


def test_the_way_back_ends_at_the_raw_files_each_with_its_digest(project):
    steps = lineage.ancestry(lock(), "model")
    assert [(step.stage, step.path, step.files) for step in steps] == [("train", "model", 0), ("acquire", "data/raw", 3)]
    by_hand = {name: md5(text) for name, text in RAW}
    assert lineage.raw_files(lock(), project) == by_hand
    for path in sorted((project / "data/raw").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (project / "data/raw").rmdir()
    assert lineage.raw_files(lock(), project) == {}
    digest = folder_digest(RAW)
    listing = project / lineage.CACHE / digest[:2] / digest[2:]
    listing.parent.mkdir(parents=True)
    listing.write_text(json.dumps([{"md5": md5(text), "relpath": name} for name, text in RAW]))
    assert lineage.raw_files(lock(), project) == by_hand


@pytest.mark.parametrize("text", ["{", "[]", "schema: '2.0'"])
def test_a_damaged_lock_file_is_refused(tmp_path, text):
    assert lineage.read_lock(tmp_path / "dvc.lock") is None
    (tmp_path / "dvc.lock").write_text(text)
    with pytest.raises(InputError, match="is not a lock file of DVC"):
        lineage.read_lock(tmp_path / "dvc.lock")
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump({"stages": lock()}))
    assert lineage.read_lock(tmp_path / "dvc.lock") == lock()
