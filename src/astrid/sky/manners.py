"""How an archive is asked politely: one rate over all threads, growing pauses after a failure, and what is worth another try."""

from __future__ import annotations

import http.client
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar, cast

import requests
import urllib3
from requests.adapters import HTTPAdapter

from astrid.core.errors import AstridError
from astrid.core.runtime import rng_for

Answer = TypeVar("Answer")
Item = TypeVar("Item")

LONGEST_PAUSE = 60.0  # s of our own; an archive that names a time is given that time
LONGEST_WISH = 3600.0  # s, the longest Retry-After that is waited for
_FIRST_SLOTS = 5.0  # requests at the polite rate that the first pause lasts
_LOOK = 1.0  # s, how often a waiting thread sees whether the run is being ended
_TOO_MANY = (429, 503)  # with these an archive may name the time to wait: RFC 9110, 10.2.3; RFC 6585, 4
_PASSING = (408, 425, *_TOO_MANY)  # and every other status from 500


class ArchiveError(AstridError):
    """An archive does not answer, or not with what was asked for; the sentence names the address and the attempts."""


class StoppedError(Exception):
    """The run is being ended, so that this request is not made."""


class PassingError(Exception):
    """A request failed in a way that may be gone at the next attempt.

    Parameters
    ----------
    reason
        Half a sentence, e.g. "it answered with status 503"; the same for the same failure.
    after
        Seconds that the archive asks to be left alone; None where it says nothing.
    """

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.after = after


class RateLimit:
    """At most `rate` units a second over all threads: every caller waits for its slot. Units are requests, or bytes."""

    def __init__(self, rate: float, *, stop: threading.Event | None = None) -> None:
        self._rate = rate
        self._free = 0.0  # time (monotonic) of the next free slot
        self._lock = threading.Lock()
        self._stop = stop or threading.Event()

    def wait(self, amount: float = 1.0) -> None:
        """Wait for a slot and take `amount` units from it. Raises `StoppedError` when the run ends meanwhile."""
        with self._lock:
            now = time.monotonic()
            slot = max(self._free, now)
            self._free = slot + amount / self._rate
        while (left := slot - time.monotonic()) > 0 or self._stop.is_set():
            rest(left, self._stop)

    def hold(self, seconds: float) -> None:
        """Give no slot for the next `seconds`; slots that are already given keep their time."""
        with self._lock:
            self._free = max(self._free, time.monotonic() + seconds)


def rest(seconds: float, stop: threading.Event) -> None:
    """Sleep, or raise `StoppedError` as soon as the run is being ended."""
    if stop.wait(max(seconds, 0.0)):
        raise StoppedError


class Manners:
    """The rate, the retries and the pauses of one archive, shared by all threads that ask it.

    Parameters
    ----------
    rate
        Requests a second, of all threads together.
    retries
        Further attempts at a request that failed in a passing way.
    seed
        Of the jitter in the pauses, with the request's name and attempt: threads that failed together do not come back together.
    """

    def __init__(self, rate: float, retries: int, *, seed: int = 0) -> None:
        self.stop = threading.Event()  # set it to end every wait and pause at once
        self.limit = RateLimit(rate, stop=self.stop)
        self.retries = retries
        self._first = min(_FIRST_SLOTS / rate, LONGEST_PAUSE)
        self._seed = seed

    def ask(self, name: str, request: Callable[[], Answer]) -> Answer:
        """Make the request at the polite rate, and again after a growing pause while it fails in a passing way.

        Raises
        ------
        ArchiveError
            When the attempts are used up or the archive asks for a longer rest than `LONGEST_WISH`; `request`'s own errors pass through.
        StoppedError
            When the run is being ended.
        """
        for attempt in itertools.count():
            self.limit.wait()
            try:
                return request()
            except (PassingError, *NETWORK_ERRORS) as error:
                passing = passing_error(error)
                if passing is None:
                    raise
            after = passing.after or 0.0
            if attempt >= self.retries:
                raise ArchiveError(f"{name}: {passing.reason} ({attempt + 1} attempts).")
            if after > LONGEST_WISH:
                raise ArchiveError(f"{name}: {passing.reason} and asks to be left alone for {after:.0f} s; run it again later.")
            self.limit.hold(after)
            rest(max(self.pause(name, attempt), after), self.stop)
        raise AssertionError("unreachable")

    def pause(self, name: str, attempt: int) -> float:
        """Seconds before the attempt that follows `attempt` (from 0): doubled each time, between half and one and a half of that."""
        jitter = rng_for(self._seed, "pause", name, attempt).uniform(0.5, 1.5)
        return float(min(self._first * 2.0**attempt, LONGEST_PAUSE) * jitter)


NETWORK_ERRORS = (requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException, ConnectionError, TimeoutError)


def passing_error(error: Exception) -> PassingError | None:
    """The failure as one that is worth another attempt, or None.

    Timeouts, cut connections and the statuses 408, 425, 429 and 5xx are; 401 and 404 are not.
    """
    if isinstance(error, PassingError):
        return error
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return passing_status(error.response.status_code, error.response.headers)
    if isinstance(error, requests.Timeout | TimeoutError | urllib3.exceptions.TimeoutError):
        return PassingError("it did not answer in time")
    if isinstance(error, requests.exceptions.InvalidJSONError):
        return PassingError("it answered with something that is not JSON")
    if isinstance(error, requests.exceptions.InvalidURL | requests.exceptions.InvalidSchema | requests.exceptions.MissingSchema):
        return None
    if isinstance(error, NETWORK_ERRORS):
        return PassingError("the connection failed or was cut")
    return None


def passing_status(status: int, headers: Mapping[str, str]) -> PassingError | None:
    """An HTTP status as a passing failure with the rest that its Retry-After asks for, or None where another attempt is no use."""
    if status not in _PASSING and status < 500:
        return None
    after = retry_after(headers) if status in _TOO_MANY else None
    return PassingError(f"it answered with status {status}", after)


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds of a Retry-After header, which holds a number or a date; None without one or where it cannot be read."""
    text = next((value for key, value in headers.items() if key.lower() == "retry-after"), "").strip()
    if text.isdigit():
        return float(text)
    try:
        when = parsedate_to_datetime(text)
    except ValueError:
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max((when - (now or datetime.now(UTC))).total_seconds(), 0.0)


def is_page(head: bytes, content_type: str = "") -> bool:
    """Whether an answer is a web page for people, as archives send one with status 200 when something is wrong.

    Parameters
    ----------
    head
        The first bytes of the answer.
    content_type
        Its header of that name.
    """
    start = head.lstrip()[:15].lower()
    return start.startswith((b"<!doctype html", b"<html")) or content_type.split(";")[0].strip().lower() == "text/html"


def in_parallel(function: Callable[[Item], Answer], items: Sequence[Item], threads: int, stop: threading.Event) -> Iterator[Answer]:
    """The function's results in the order of the items, by so many threads; the first error in that order is raised.

    The threads do not outlive the program: Ctrl-C need not wait for an answer that is on its way. `stop` keeps them from
    taking further items, and then `StoppedError` is raised.
    """
    done: dict[int, tuple[Answer | None, Exception | None]] = {}
    ready = threading.Condition()
    queue = iter(range(len(items)))
    ended = threading.Event()

    def work() -> None:
        try:
            while not (ended.is_set() or stop.is_set()):
                with ready:
                    number = next(queue, None)
                if number is None:
                    return
                outcome = _outcome(function, items[number])
                with ready:
                    done[number] = outcome
                    ready.notify_all()
        finally:
            with ready:
                ready.notify_all()

    for _ in range(min(threads, len(items))):
        threading.Thread(target=work, daemon=True).start()
    try:
        for number in range(len(items)):
            with ready:
                while number not in done and not stop.is_set():
                    ready.wait(_LOOK)
                if number not in done:
                    raise StoppedError
                answer, error = done.pop(number)
            if error is not None:
                raise error
            yield cast("Answer", answer)
    finally:
        ended.set()


def _outcome(function: Callable[[Item], Answer], item: Item) -> tuple[Answer | None, Exception | None]:
    try:
        return function(item), None
    except Exception as error:  # noqa: BLE001  # raised again in the thread that waits for it
        return None, error


class PoliteAdapter(HTTPAdapter):
    """Transport for a `requests` session: every request of a client, its polls and pages too, keeps the manners.

    Mounted on the session of an archive's own client, it brings what clients lack: a rate, a time limit, retries.

    Parameters
    ----------
    manners
        Shared by all threads.
    timeout
        Seconds to connect and between two bytes of an answer, where the client sets none.
    check
        Called with an answer of status 200 whose body is read; raises `PassingError` where it is not what was asked for.
    """

    def __init__(self, manners: Manners, timeout: float, check: Callable[[requests.Response], None] | None = None) -> None:
        super().__init__()
        self._manners = manners
        self._timeout = timeout
        self._check = check

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        """Send it within the manners; raises `ArchiveError` when the attempts are used up."""
        kwargs["timeout"] = kwargs.get("timeout") or self._timeout
        streamed = bool(kwargs.get("stream"))
        url = (request.url or "").split("?")[0]

        def once() -> requests.Response:
            response = super(PoliteAdapter, self).send(request, *args, **kwargs)
            if (passing := passing_status(response.status_code, response.headers)) is not None:
                response.close()
                raise passing
            if not streamed:
                _ = response.content  # a connection cut in the body counts as a failure of this attempt
                if self._check is not None and response.ok:
                    self._check(response)
            return response

        return self._manners.ask(url, once)
