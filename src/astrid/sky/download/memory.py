"""Which files were verified, so that a later run asks nothing about them: by size and time of change, else by digest."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from astrid.core.provenance import digest_file
from astrid.core.runtime import write_bytes


@dataclass(frozen=True)
class Stamp:
    """One file as it lay there when it was verified."""

    name: str  # within the product's folder; empty = the product is this file
    size: int
    mtime_ns: int
    sha256: str


class Memory:
    """A journal of verified products, one JSON object a line; a last line that was cut off counts as never written."""

    def __init__(self, journal: Path, root: Path) -> None:
        self._journal = journal
        self._root = root
        self._lock = threading.Lock()
        self._known: dict[str, tuple[str, tuple[Stamp, ...]]] = {}
        lines = journal.read_bytes().splitlines() if journal.exists() else []
        for line in lines:
            try:
                entry = json.loads(line)
                stamps = tuple(Stamp(**stamp) for stamp in entry["files"])
                self._known[entry["path"]] = (entry["key"], stamps)
            except (ValueError, KeyError, TypeError):
                continue
        if lines:  # without the lines that later ones replaced, and with a whole last line
            write_bytes(journal, b"".join(self._line(path) for path in sorted(self._known)))

    def _line(self, path: str) -> bytes:
        key, stamps = self._known[path]
        return json.dumps({"path": path, "key": key, "files": [asdict(stamp) for stamp in stamps]}, sort_keys=True).encode() + b"\n"

    def products(self) -> list[str]:
        """The paths of all products that were ever verified, relative to the root, in order."""
        return sorted(self._known)

    def knows(self, path: str, key: str) -> bool:
        """Whether a product was ever verified, whatever lies there now."""
        return self._known.get(path, ("", ()))[0] == key

    def recall(self, path: str, key: str) -> tuple[Stamp, ...] | None:
        """The stamps of a product that lies there as it was verified, or None.

        A file whose time of change is another (DVC put it back, a disk was copied) is read and its digest compared.
        """
        known_key, stamps = self._known.get(path, ("", ()))
        if known_key != key or not stamps:
            return None
        product = self._root / path
        if [stamp.name for stamp in stamps] != [name for name, _ in _files(product)]:
            return None
        fresh = [stamp if _unchanged(product / stamp.name, stamp) else _same(product / stamp.name, stamp) for stamp in stamps]
        found = tuple(stamp for stamp in fresh if stamp is not None)
        if len(found) != len(stamps):
            return None
        if found != stamps:
            self._write(path, key, found)
        return found

    def remember(self, path: str, key: str) -> tuple[Stamp, ...]:
        """Take a product as verified that has just been checked."""
        product = self._root / path
        stamps = tuple(_stamp(file, name) for name, file in _files(product))
        self._write(path, key, stamps)
        return stamps

    def _write(self, path: str, key: str, stamps: tuple[Stamp, ...]) -> None:
        with self._lock:
            self._known[path] = (key, stamps)
            self._journal.parent.mkdir(parents=True, exist_ok=True)
            with self._journal.open("ab") as stream:
                stream.write(self._line(path))


def _files(product: Path) -> Iterator[tuple[str, Path]]:
    if product.is_file():
        yield "", product
    elif product.is_dir():
        for file in sorted(product.rglob("*")):
            if file.is_file():
                yield file.relative_to(product).as_posix(), file


def _stamp(file: Path, name: str) -> Stamp:
    about = file.stat()
    return Stamp(name, about.st_size, about.st_mtime_ns, digest_file(file))


def _unchanged(file: Path, stamp: Stamp) -> bool:
    about = file.stat()
    return (about.st_size, about.st_mtime_ns) == (stamp.size, stamp.mtime_ns)


def _same(file: Path, stamp: Stamp) -> Stamp | None:
    if file.stat().st_size != stamp.size:
        return None
    fresh = _stamp(file, stamp.name)
    return fresh if fresh.sha256 == stamp.sha256 else None


def digest(path: Path, algorithm: str) -> str:
    """Hex digest of a file by an algorithm that hashlib knows; raises `ValueError` for one it does not."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()
