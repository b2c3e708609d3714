from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from astrid.core import provenance


def test_part_borders_count() -> None:
    assert provenance.digest_bytes(b"ab", b"c") != provenance.digest_bytes(b"a", b"bc")


def test_a_files_digest_is_that_of_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "big"
    path.write_bytes(b"x" * 3_000_000)
    before = provenance.digest_file(path)
    path.write_bytes(b"x" * 2_999_999 + b"y")
    assert provenance.digest_file(path) != before


def test_an_arrays_digest_knows_dtype_and_shape_but_not_memory_order() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert provenance.digest_array(array) == provenance.digest_array(np.asfortranarray(array))
    assert provenance.digest_array(array) != provenance.digest_array(array.reshape(3, 2))
    assert provenance.digest_array(array) != provenance.digest_array(array.astype(np.float64))


def test_settings_digest_ignores_key_order_and_refuses_the_unknown() -> None:
    assert provenance.digest_settings({"a": 1, "b": Path("x")}) == provenance.digest_settings({"b": Path("x"), "a": 1})
    with pytest.raises(TypeError, match="no place in a digest"):
        provenance.digest_settings({"a": object()})


def test_code_digest_covers_a_whole_package() -> None:
    assert provenance.digest_code(("astrid.core",)) != provenance.digest_code(("astrid.core.dq",))
    with pytest.raises(ModuleNotFoundError):
        provenance.digest_code(("astrid.no_such_room",))


def test_git_state_outside_a_repository(tmp_path: Path) -> None:
    assert provenance.git_state(tmp_path) == {"commit": "", "dirty": True}


def test_git_state_sees_a_change(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=t", "-c", "user.email=t@t")
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    git("init")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-m", "one")
    assert provenance.git_state(tmp_path)["dirty"] is False
    (tmp_path / "a").write_text("2")
    assert provenance.git_state(tmp_path)["dirty"] is True
