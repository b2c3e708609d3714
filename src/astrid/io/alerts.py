"""Alert packets (Avro) of ZTF and its kin -> triplets, one alert at a time: files, folders, tar archives, nothing unpacked to disk.

Every alert record gives a `Triplet` or a `Problem`; a broken file, archive or record never stops the rest. Memory is bounded
by one Avro block. Surveys: ZTF (Masci et al. 2019, PASP 131, 018003), Gattini-IR (PGIR), WINTER, TURBO; Rubin's packets are
recognised and set aside, since their 30x30 stamps are smaller than what a model takes.
"""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from astrid.core.errors import InputError
from astrid.core.records import Problem, Triplet
from astrid.io.cutouts import CutoutError, read_cutout

_MAGIC = b"Obj\x01"
_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_MAX_BLOCK = 1 << 28  # bytes: no alert stream writes Avro blocks of 256 MiB, a damaged length field claims them
_HEADER = {
    "type": "record",
    "name": "header",
    "fields": [
        {"name": "magic", "type": {"type": "fixed", "name": "magic", "size": 4}},
        {"name": "meta", "type": {"type": "map", "values": "bytes"}},
        {"name": "sync", "type": {"type": "fixed", "name": "sync", "size": 16}},
    ],
}
_CUTOUTS = (("cutoutScience", "cutout_science"), ("cutoutTemplate", "cutout_template"), ("cutoutDifference", "cutout_difference"))
_POSITIVE = {"t": 1, "true": 1, "1": 1, "1.0": 1, "f": -1, "false": -1, "0": -1, "0.0": -1, "-1": -1}
# Numbers of the candidate (of Rubin's diaSource) that the triplet's meta keeps, by the packet's own names.
NUMBERS = (
    *("jd", "exptime", "ra", "dec", "magpsf", "sigmapsf", "scorr", "chipsf", "fwhm", "elong", "classtar", "nbad", "nneg", "mindtoedge"),
    *("fid", "rcid", "field", "pid", "rfid", "stackquadid", "rb", "drb", "ndethist", "ssdistnr", "distnr"),
    *("distpsnr1", "distpsnr2", "distpsnr3", "sgscore1", "sgscore2", "sgscore3"),
    *("midpointMjdTai", "visit", "detector", "snr", "psfFlux", "psfFluxErr", "psfChi2", "psfNdata", "reliability", "ssObjectId"),
)
_WORDS = ("band",)
BROKEN_FILE, BROKEN_RECORD, NO_CUTOUT = "broken file", "broken record", "no cut-out"

# Whether the survey's difference stamp is already turned so that the source is positive. Measured for ZTF at the centres of
# its negative detections; the others of ZTF's schema family are taken to follow it (only brightened sources were at hand).
_TURNED = {"ZTF": True, "PGIR": True, "WINTER": True, "TURBO": True, "LSST": False}


@dataclass(frozen=True, slots=True)
class AlertProblem(Problem):
    """An alert that was set aside, with what is known of it."""

    candidate_id: str = ""
    object_id: str = ""
    survey: str = ""
    kind: str = BROKEN_RECORD  # what sort of reason it is, in a few words, to count by


class _AlertError(Exception):
    """Why one record gives no triplet."""

    kind = BROKEN_RECORD


class _MissingCutout(_AlertError):
    kind = NO_CUTOUT


def read_alerts(inputs: Iterable[Path]) -> Iterator[Triplet | Problem]:
    """Stream the alerts of Avro files, folders (recursively, in name order) and tar archives.

    Yields
    ------
    `Triplet` (stamps float32 (3, 63, 63): science, reference, difference turned so that the source is positive; NaN where
    masked or outside; `meta["source"]` is the file, with `!member` inside an archive) or `Problem`, one an alert record, and
    one `Problem` a file or archive that breaks off. Raises `InputError` when a path does not exist.
    """
    for path in inputs:
        if not path.exists():
            raise InputError(f"{path} does not exist; give alert files, folders or tar archives.")
        if not path.is_dir():
            yield from _read_path(path)
            continue
        files = alert_files(path)
        if not files:
            yield Problem(str(path), "the folder holds no .avro file and no tar archive.")
        for file in files:
            yield from _read_path(file)


def alert_files(folder: Path) -> list[Path]:
    """The Avro files and tar archives under a folder, recursively, in name order."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name.lower().endswith((".avro", *_ARCHIVES)))


def read_stream(stream: IO[bytes], source: str) -> Iterator[Triplet | Problem]:
    """The alerts of one Avro object container, read from an open binary stream; `source` names it in what is yielded."""
    done = 0
    try:
        for record in _records(stream):
            done += 1
            yield _triplet(record, source)
    except _broken() as error:
        yield Problem(source, _break_off(error, done))


def _read_path(path: Path) -> Iterator[Triplet | Problem]:
    try:
        if path.name.lower().endswith(_ARCHIVES):
            yield from _read_archive(path)
        else:
            with path.open("rb") as stream:
                yield from read_stream(stream, str(path))
    except OSError as error:
        yield Problem(str(path), f"the file cannot be read ({error.strerror or error}).")


def _read_archive(path: Path) -> Iterator[Triplet | Problem]:
    done = 0
    try:
        with tarfile.open(path, mode="r|*") as archive:
            for member in archive:
                if member.isfile() and member.name.lower().endswith(".avro"):
                    content = archive.extractfile(member)
                    if content is not None:
                        yield from read_stream(content, f"{path}!{member.name}")
                    done += 1
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        yield Problem(str(path), f"the archive breaks off after {done} alert files ({_line(error)}).")
        return
    if not done:
        yield Problem(str(path), "the archive holds no .avro file.")


class _Chained(io.RawIOBase):
    """A re-written Avro header followed by the untouched rest of the stream."""

    def __init__(self, head: bytes, rest: IO[bytes]) -> None:
        self._head = io.BytesIO(head)
        self._rest = rest

    def read(self, size: int = -1, /) -> bytes:
        if size > _MAX_BLOCK:
            raise ValueError(f"a block claims {size} bytes")
        got = self._head.read(size)
        return got if len(got) == size else got + self._rest.read(size - len(got) if size >= 0 else -1)


def _records(stream: IO[bytes]) -> Iterator[Any]:
    """The records of a container. Defaults are taken out of the writer's schema: reading needs none, and TURBO's are invalid."""
    import fastavro

    magic = stream.read(len(_MAGIC))
    if magic != _MAGIC:
        raise ValueError(f"not an Avro file, it begins with {magic!r}" if magic else "the file is empty")
    head: Any = fastavro.schemaless_reader(_Chained(magic, stream), _HEADER, None)
    schema = _without_defaults(json.loads(head["meta"]["avro.schema"]))
    if _takes_nothing(schema, {}):
        raise ValueError("its records take no bytes")
    head["meta"]["avro.schema"] = json.dumps(schema).encode()
    rewritten = io.BytesIO()
    fastavro.schemaless_writer(rewritten, _HEADER, head)
    yield from fastavro.reader(_Chained(rewritten.getvalue(), stream))


def _without_defaults(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {key: _without_defaults(value) for key, value in schema.items() if key != "default"}
    return [_without_defaults(part) for part in schema] if isinstance(schema, list) else schema


def _takes_nothing(schema: Any, named: dict[str, bool]) -> bool:
    """Whether a value of the schema takes no bytes. An array of such is refused: a damaged count of it would fill the memory."""
    if isinstance(schema, str):
        return schema == "null" or named.get(schema.rpartition(".")[2], False)
    if isinstance(schema, list):
        for part in schema:
            _takes_nothing(part, named)
        return False  # a union begins with the number of its branch
    kind = schema["type"]
    if kind == "array" and _takes_nothing(schema["items"], named):
        raise ValueError("its schema has an array of items that take no bytes")
    if kind in ("array", "map"):
        return False
    if kind == "fixed":
        empty = bool(schema["size"] <= 0)
    elif kind in ("record", "error"):
        parts = [_takes_nothing(field["type"], named) for field in schema["fields"]]  # every one, to learn the names within
        empty = all(parts)
    else:
        return _takes_nothing(kind, named)
    named[str(schema.get("name", "")).rpartition(".")[2]] = empty
    return empty


@cache
def _broken() -> tuple[type[Exception], ...]:
    """What a damaged container raises: fastavro decodes without checks, so damage surfaces as Python's own errors."""
    import cramjam
    from fastavro.schema import SchemaParseException, UnknownType

    plain = (EOFError, ValueError, LookupError, TypeError, OverflowError, MemoryError, AttributeError, StopIteration, RecursionError)
    return (*plain, OSError, tarfile.TarError, zlib.error, struct.error, SchemaParseException, UnknownType, cramjam.DecompressionError)


def _break_off(error: Exception, done: int) -> str:
    where = f"the file breaks off after {done} alerts" if done else "no alert can be read from the file"
    return f"{where} ({_line(error)})."


def _line(error: Exception) -> str:
    if isinstance(error, LookupError | TypeError | AttributeError | MemoryError):
        return "its bytes do not follow its own schema"
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".")[:160] if text else type(error).__name__


def _triplet(record: Any, source: str) -> Triplet | Problem:
    if not isinstance(record, Mapping):
        return AlertProblem(source, f"a record is a {type(record).__name__}, not an alert.")
    detection = record.get("candidate") or record.get("diaSource")
    if not isinstance(detection, Mapping):
        return AlertProblem(source, "a record has neither a candidate nor a diaSource, so it is no alert.")
    candidate_id, object_id, survey = _identity(record, detection)
    try:
        if not survey:
            raise _AlertError(
                "the alert's survey is not known: neither its object's name nor its publisher says ZTF, PGIR, WINTER or TURBO."
            )
        sign = _sign(detection)
        stamps = np.stack([_stamp(record, names) for names in _CUTOUTS])
    except (_AlertError, CutoutError) as error:
        return AlertProblem(source, str(error), candidate_id, object_id, survey, error.kind)
    if not _TURNED[survey]:
        stamps[2] *= sign
    meta = {"source": source} | {name: detection[name] for name in (*NUMBERS, *_WORDS) if detection.get(name) is not None}
    return Triplet(candidate_id, object_id, survey, stamps, sign, meta)


def _identity(record: Mapping[str, Any], detection: Mapping[str, Any]) -> tuple[str, str, str]:
    """Alert id, object id and survey ("" where unknown)."""
    candidate_id = _first(record.get("candid"), detection.get("candid"), record.get("diaSourceId"), record.get("alertId"))
    object_id = _first(record.get("objectId"), record.get("objectid"), detection.get("diaObjectId"), detection.get("name"))
    publisher = str(record.get("publisher") or "").lower()
    if "diaSource" in record:
        survey = "LSST"
    elif object_id.startswith("ZTF") or publisher.startswith("ztf"):
        survey = "ZTF"
    elif object_id.startswith("PGIR") or "pgir" in publisher:
        survey = "PGIR"
    elif object_id.startswith(("WNTR", "WINTER")) or "winter" in publisher:
        survey = "WINTER"
    else:
        survey = "TURBO" if "turbo" in publisher else ""
    return candidate_id, object_id, survey


def _first(*values: Any) -> str:
    return next((str(value) for value in values if value not in (None, "")), "")


def _sign(detection: Mapping[str, Any]) -> int:
    """+1 for a brightened and -1 for a faded source, from `isdiffpos` (t, f, 1, 0, booleans) or the sign of Rubin's flux."""
    if "psfFlux" in detection and "isdiffpos" not in detection:
        flux = detection["psfFlux"]
        if flux is None or not np.isfinite(flux):
            raise _AlertError("the diaSource has no finite psfFlux, so it is not known whether it brightened or faded.")
        return 1 if flux >= 0 else -1
    value = detection.get("isdiffpos")
    sign = _POSITIVE.get(str(value).strip().lower())
    if sign is None:
        raise _AlertError(f"isdiffpos is {value!r}, so it is not known whether the source brightened or faded.")
    return sign


def _stamp(record: Mapping[str, Any], names: tuple[str, str]) -> NDArray[np.float32]:
    cutout = next((record[name] for name in names if record.get(name) is not None), None)
    content = cutout.get("stampData") if isinstance(cutout, Mapping) else cutout
    if not content:
        raise _MissingCutout(f"the alert has no {names[0]}.")
    if not isinstance(content, bytes):
        raise _AlertError(f"{names[0]} is a {type(content).__name__}, not bytes.")
    return read_cutout(content, names[0])
