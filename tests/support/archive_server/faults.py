"""Which answers of the test archive go wrong and how, fixed by a seed and the request."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

TRANSPORT = ("slow", "500", "429", "cut", "html")  # any client can see that these went wrong
FILES = (*TRANSPORT, "short", "long")  # a complete answer of another size
TABLES = (*TRANSPORT, "duplicate", "empty")  # a complete answer with rows twice, or without any


@dataclass(frozen=True)
class Fault:
    """One answer that goes wrong."""

    kind: str  # one of FILES or TABLES
    at: float = 0.5  # cut: share of the whole answer, head included, that is sent; short, long: share of the body
    seconds: float = 0.2  # slow: over how long the answer drips; 429: what Retry-After says
    reset: bool = False  # cut: the connection is reset, not closed


# The fault of the n-th answer (from 0) to one request, named by method, path, query and body; None = a good answer.
Plan = Callable[[str, int], Fault | None]


def none(_request: str, _attempt: int) -> Fault | None:
    """Everything goes well."""
    return None


@dataclass(frozen=True)
class Seeded:
    """A share of all answers goes wrong, by chance but the same in every run; from the `worst`-th answer on a request is well served."""

    seed: int
    share: float
    kinds: tuple[str, ...] = FILES
    worst: int = 3
    seconds: float = 0.2
    only: str = ""  # text that the request must hold

    def __call__(self, request: str, attempt: int) -> Fault | None:
        if attempt >= self.worst or self.only not in request:
            return None
        digest = hashlib.sha256(f"{self.seed}\n{attempt}\n{request}".encode()).digest()
        chance, at = (int.from_bytes(digest[start : start + 8], "big") / 2**64 for start in (0, 8))
        if chance >= self.share:
            return None
        return Fault(self.kinds[digest[16] % len(self.kinds)], at, self.seconds, reset=bool(digest[17] % 2))


@dataclass(frozen=True)
class Listed:
    """The first answers to requests that hold a text go wrong one after the other; all others go well."""

    by_text: Mapping[str, tuple[Fault | None, ...]]

    def __call__(self, request: str, attempt: int) -> Fault | None:
        for text, faults in self.by_text.items():
            if text in request:
                return faults[attempt] if attempt < len(faults) else None
        return None


@dataclass(frozen=True)
class Both:
    """The first plan that has a fault for the request."""

    plans: tuple[Plan, ...]

    def __call__(self, request: str, attempt: int) -> Fault | None:
        return next((fault for plan in self.plans if (fault := plan(request, attempt)) is not None), None)


@dataclass(frozen=True)
class Reply:
    """An answer; `ranges`: the server gives parts of it and names its content by an ETag."""

    body: bytes
    kind: str = "application/octet-stream"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    ranges: bool = False


def table(content: object) -> Reply:
    """An answer in JSON."""
    return Reply(json.dumps(content).encode(), "application/json")


_PAGE = b"<!DOCTYPE html><html><head><title>Maintenance</title></head><body><h1>The archive is being serviced.</h1></body></html>\n"


def spoil(reply: Reply, fault: Fault) -> Reply:
    """The answer with its content or status wrong; `slow` and `cut` concern its sending and change nothing here."""
    if fault.kind == "500":
        return Reply(b"internal error\n", "text/plain", 500)
    if fault.kind == "429":
        return Reply(b"too many requests\n", "text/plain", 429, {"Retry-After": f"{fault.seconds:.0f}" if fault.seconds >= 1 else "0"})
    if fault.kind == "html":
        return Reply(_PAGE, "text/html")
    if fault.kind == "short":
        return replace(reply, body=reply.body[: int(fault.at * len(reply.body))])
    if fault.kind == "long":
        return replace(reply, body=reply.body + bytes(1 + int(fault.at * 5000)))
    if fault.kind in ("duplicate", "empty") and "json" in reply.kind:
        return _rows(reply, fault.kind)
    return reply


def _rows(reply: Reply, kind: str) -> Reply:
    content = json.loads(reply.body)
    if not isinstance(content.get("data"), list):
        return reply
    content["data"] = [row for row in content["data"] for _ in range(2)] if kind == "duplicate" else []
    if isinstance(content.get("paging"), dict):
        content["paging"] = {**content["paging"], "rows": len(content["data"]), "rowsTotal": len(content["data"])}
    return replace(reply, body=json.dumps(content).encode())
