"""Verified files that are not wanted at the moment: kept beside the root, and back in their place without asking anybody."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from astrid.sky.download.memory import Memory

JOURNAL = "verified.jsonl"
_KEPT = "kept"


def work_folder(root: Path) -> Path:
    """Where files under way, the memory of verified ones and those set aside lie: beside the root, not in it."""
    return root.with_name(f".{root.name}")


def park(root: Path, wanted: Iterable[Path]) -> None:
    """Move every verified product below `root` of which no file is `wanted` to the folder of those kept."""
    work = work_folder(root)
    if not (work / JOURNAL).exists():
        return
    paths = {path.absolute() for path in wanted}
    held = paths | {folder for path in paths for folder in path.parents}
    for name in Memory(work / JOURNAL, root).products():
        product = root / name
        if product.exists() and product.absolute() not in held:
            target = work / _KEPT / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                product.rename(target)


def take_back(work: Path, root: Path, name: str) -> None:
    """Put a kept product back where it belongs, if there is one and nothing lies there."""
    kept, product = work / _KEPT / name, root / name
    if kept.exists() and not product.exists():
        product.parent.mkdir(parents=True, exist_ok=True)
        kept.rename(product)
