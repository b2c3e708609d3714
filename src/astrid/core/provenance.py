"""Digests of files, arrays, settings and code, so that every product can say what it was made from."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_CHUNK = 1 << 20


def digest_bytes(*parts: bytes) -> str:
    """SHA-256 of the parts in order, as 64 hex digits; part borders count."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(len(part).to_bytes(8, "big"))
        sha.update(part)
    return sha.hexdigest()


def digest_file(path: Path) -> str:
    """SHA-256 of a file's bytes, read in chunks."""
    sha = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            sha.update(chunk)
    return sha.hexdigest()


def digest_array(array: NDArray[Any]) -> str:
    """SHA-256 of dtype, shape and contents."""
    contiguous = np.ascontiguousarray(array)
    return digest_bytes(str(array.dtype).encode(), str(array.shape).encode(), contiguous.tobytes())


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, Path):
        return value.as_posix()
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} has no place in a digest")


def digest_settings(settings: Mapping[str, Any] | Any) -> str:
    """SHA-256 of a mapping or dataclass of plain values, independent of key order."""
    return digest_bytes(json.dumps(settings, sort_keys=True, default=_plain).encode())


@cache
def digest_code(modules: tuple[str, ...]) -> str:
    """SHA-256 over the Python sources of modules or packages, so that a changed room makes its products stale."""
    parts: list[bytes] = []
    for module in modules:
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(module)
        origin = Path(spec.origin)
        files: Iterable[Path] = sorted(origin.parent.rglob("*.py")) if spec.submodule_search_locations else [origin]
        parts.extend(path.read_bytes() for path in files)
    return digest_bytes(*parts)


def git_state(folder: Path, paths: Sequence[str] = ()) -> dict[str, Any]:
    """Commit and dirty flag of the work tree at `folder`, or of these `paths` in it; `commit` is "" outside a repository or without git."""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        dirty = bool(_git(folder, "status", "--porcelain", "--", *paths))
    except (OSError, subprocess.CalledProcessError):
        return {"commit": "", "dirty": True}
    return {"commit": commit, "dirty": dirty}


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()
