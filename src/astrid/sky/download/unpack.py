"""A .tar product as a folder, with nothing outside of it."""

from __future__ import annotations

import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath

from astrid.sky.download.verify import DamagedError, UnusableError

_MEMBERS = 10_000  # files of a product; more is no product of a mission
_BROKEN = (tarfile.TarError, OSError, EOFError, zlib.error)


def unpack(archive: Path, folder: Path, limit: float) -> list[Path]:
    """Write the files of a tar into a new folder and return them, sorted.

    The folders that all members share are left out: archives put the time of asking into them.

    Parameters
    ----------
    archive
        .tar, plain or compressed.
    folder
        Where the files go; what lies there is removed first.
    limit
        Bytes that they may have together.

    Raises
    ------
    DamagedError
        The tar is cut off or broken.
    UnusableError
        A member is a link or a device, leads out of the folder, stands twice, or all are too large or too many.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        with tarfile.open(archive) as tar:
            members = _members(tar, limit)
            shared = _shared(list(members))
            for path, member in members.items():
                source = tar.extractfile(member)
                target = folder.joinpath(*path.parts[shared:])
                target.parent.mkdir(parents=True, exist_ok=True)
                if source is None:
                    raise DamagedError(f"its member {path} cannot be read")
                with source, target.open("wb") as stream:
                    shutil.copyfileobj(source, stream)
    except _BROKEN as error:
        raise DamagedError(f"its tar is broken ({error})") from error
    return sorted(file for file in folder.rglob("*") if file.is_file())


def _members(tar: tarfile.TarFile, limit: float) -> dict[PurePosixPath, tarfile.TarInfo]:
    found: dict[PurePosixPath, tarfile.TarInfo] = {}
    size = 0
    for member in tar:
        path = PurePosixPath(member.name)
        if path.is_absolute() or ".." in path.parts or "\\" in member.name or ":" in member.name:
            raise UnusableError(f"its member {member.name!r} leads out of the folder")
        if member.isdir():
            continue
        if not member.isreg():
            raise UnusableError(f"its member {member.name!r} is no plain file")
        size += member.size
        if size > limit:
            reason = f"its files have more than {limit / 1e9:.3g} GB, which survey.archive.download.max_file_gb allows"
            raise UnusableError(reason, "too large")
        if path in found:
            raise UnusableError(f"its member {member.name!r} stands twice")
        found[path] = member
        if len(found) > _MEMBERS:
            raise UnusableError(f"it has more than {_MEMBERS} members")
    if not found:
        raise UnusableError("it holds no file")
    return found


def _shared(paths: list[PurePosixPath]) -> int:
    """Number of leading folders that all paths have in common."""
    count = 0
    while len({path.parts[: count + 1] for path in paths}) == 1 and all(len(path.parts) > count + 1 for path in paths):
        count += 1
    return count
