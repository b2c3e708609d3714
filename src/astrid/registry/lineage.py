"""What dvc.lock says of the products on disk, and the way back from a model to the raw files it was made from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from astrid.core.errors import InputError

LOCK = Path("dvc.lock")
CACHE = Path(".dvc/cache/files/md5")
RAW = "data/raw"
_CHUNK = 1 << 20
_DIR = ".dir"


@dataclass(frozen=True, slots=True)
class Step:
    """A product and the stage that made it. `digest`: DVC's MD5; `files`: how many, 0 for a single file."""

    stage: str
    path: str
    digest: str
    files: int


def read_lock(path: Path = LOCK) -> dict[str, Any] | None:
    """The stages of dvc.lock, None where there is none. Raises `InputError` when it cannot be read."""
    if not path.is_file():
        return None
    try:
        content = yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        stages: dict[str, Any] = content["stages"]
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a lock file of DVC ({str(error).splitlines()[0]}); restore it from git.") from error
    return stages


def ancestry(stages: Mapping[str, Any], product: str) -> tuple[Step, ...]:
    """Every product that `product` was made from, itself first, each once, in the order of the way back."""
    made = {out["path"]: (name, out) for name, stage in stages.items() for out in stage.get("outs", ())}
    steps: dict[str, Step] = {}
    waiting = [product]
    while waiting:
        path = _owner(waiting.pop(0), made)
        if path is None or path in steps:
            continue
        name, out = made[path]
        steps[path] = Step(name, path, str(out["md5"]), int(out.get("nfiles", 0)))
        waiting += [dep["path"] for dep in stages[name].get("deps", ())]
    return tuple(steps.values())


def parameters(stages: Mapping[str, Any], product: str) -> dict[str, Any]:
    """What every stage on the way to `product` ran with, by stage, as the lock file has it."""
    return {step.stage: stages[step.stage].get("params", {}) for step in ancestry(stages, product)}


def changed(stages: Mapping[str, Any], products: Iterable[str], root: Path = Path()) -> list[str]:
    """What is not as `dvc repro` left it: products that lie otherwise on disk, and stages that ran on other products than these."""
    made = {out["path"]: str(out["md5"]) for stage in stages.values() for out in stage.get("outs", ())}
    wanted = list(products)
    out = [path for path in wanted if path not in made or made[path] != dvc_digest(root / path)]
    for stage in sorted({step.stage for path in wanted for step in ancestry(stages, path)}):
        out += [f"{stage} <- {dep['path']}" for dep in stages[stage].get("deps", ()) if made.get(dep["path"], dep["md5"]) != dep["md5"]]
    return out


def dvc_digest(path: Path) -> str:
    """The MD5 that DVC 3 gives a file, or a folder (that of the sorted list of its files); empty where there is nothing."""
    if path.is_file():
        return _md5(path)
    if not path.is_dir():
        return ""
    return f"{hashlib.md5(json.dumps(list(_listing(path)), sort_keys=True).encode(), usedforsecurity=False).hexdigest()}{_DIR}"


def raw_files(stages: Mapping[str, Any], root: Path = Path()) -> dict[str, str]:
    """MD5 of every raw file by its path in data/raw: from DVC's cache, else from the files themselves; empty where neither is here."""
    digest = next((str(out["md5"]) for stage in stages.values() for out in stage.get("outs", ()) if out["path"] == RAW), "")
    listing = root / CACHE / digest[:2] / digest[2:]
    if digest and listing.is_file():
        entries = json.loads(listing.read_text())
    else:
        entries = list(_listing(root / RAW)) if (root / RAW).is_dir() else []
    return {str(entry["relpath"]): str(entry["md5"]) for entry in entries}


def _owner(path: str, made: Mapping[str, Any]) -> str | None:
    """The product that is, or holds, a path."""
    return next((out for out in made if path == out or path.startswith(f"{out}/")), None)


def _listing(folder: Path) -> Iterator[dict[str, str]]:
    files = sorted((path.relative_to(folder).as_posix(), path) for path in folder.rglob("*") if path.is_file())
    for name, path in sorted(files, key=lambda item: tuple(item[0].split("/"))):
        yield {"md5": _md5(path), "relpath": name}


def _md5(path: Path) -> str:
    found = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            found.update(chunk)
    return found.hexdigest()
