from __future__ import annotations

import threading
import time
from datetime import UTC, datetime

import pytest
import requests

from astrid.sky.manners import (
    ArchiveError,
    Manners,
    PassingError,
    PoliteAdapter,
    RateLimit,
    StoppedError,
    in_parallel,
    is_page,
    passing_error,
    passing_status,
    retry_after,
)
from support.archive_server import faults
from support.archive_server.faults import Fault, Reply
from support.archive_server.server import ArchiveServer


def test_all_threads_together_keep_the_rate() -> None:
    limit, taken = RateLimit(100.0), []

    def take(_: int) -> None:
        limit.wait()
        taken.append(time.monotonic())

    list(in_parallel(take, range(30), 8, threading.Event()))
    assert len(taken) == 30
    assert max(taken) - min(taken) >= 0.28  # 29 spaces of 10 ms
    assert all(after - before >= 0.09 for before, after in zip(sorted(taken), sorted(taken)[10:], strict=False))


def test_a_rate_of_bytes_counts_what_was_taken() -> None:
    limit, start = RateLimit(1000.0), time.monotonic()
    for _ in range(4):
        limit.wait(100.0)
    assert 0.29 < time.monotonic() - start < 1.0


def test_pauses_grow_are_jittered_and_are_the_same_for_the_same_name() -> None:
    manners = Manners(5.0, 3)
    pauses = [manners.pause("a", attempt) for attempt in range(5)]
    assert all(0.5 * 2**attempt <= pause <= 1.5 * 2**attempt for attempt, pause in enumerate(pauses))
    assert pauses == [Manners(5.0, 3).pause("a", attempt) for attempt in range(5)]
    assert manners.pause("a", 0) != manners.pause("b", 0)
    assert manners.pause("a", 0) != Manners(5.0, 3, seed=1).pause("a", 0)
    assert manners.pause("a", 50) <= 90.0


def test_a_passing_failure_is_asked_again_and_another_is_not() -> None:
    manners, asked = Manners(1000.0, 3), []

    def flaky() -> str:
        asked.append(1)
        if len(asked) < 3:
            raise requests.ConnectionError("cut")
        return "answer"

    assert manners.ask("x", flaky) == "answer"
    assert len(asked) == 3

    def wrong() -> str:
        asked.append(1)
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        manners.ask("x", wrong)
    assert len(asked) == 4


def test_the_attempts_are_used_up() -> None:
    def never() -> str:
        raise PassingError("it sleeps")

    with pytest.raises(ArchiveError, match=r"x: it sleeps \(3 attempts\)\."):
        Manners(1000.0, 2).ask("x", never)


def test_a_named_rest_is_kept_by_all_threads_but_not_a_day() -> None:
    manners, asked = Manners(1000.0, 1), []

    def busy() -> str:
        asked.append(time.monotonic())
        if len(asked) == 1:
            raise PassingError("busy", after=0.3)
        return "answer"

    assert manners.ask("x", busy) == "answer"
    assert asked[1] - asked[0] >= 0.3
    manners.limit.hold(0.2)
    start = time.monotonic()
    manners.ask("y", lambda: "other")
    assert time.monotonic() - start >= 0.19

    def closed() -> str:
        raise PassingError("closed", after=86400.0)

    with pytest.raises(ArchiveError, match="asks to be left alone for 86400 s; run it again later"):
        manners.ask("x", closed)


def test_a_run_that_ends_waits_no_longer() -> None:
    manners = Manners(0.01, 5)
    manners.ask("x", lambda: 1)
    threading.Timer(0.1, manners.stop.set).start()
    start = time.monotonic()
    with pytest.raises(StoppedError):
        manners.ask("x", lambda: 1)
    assert time.monotonic() - start < 5.0


@pytest.mark.parametrize(("status", "again"), [(500, True), (502, True), (503, True), (429, True), (408, True), (404, False), (401, False)])
def test_which_status_is_worth_another_attempt(status: int, again: bool) -> None:
    assert (passing_status(status, {}) is not None) is again
    response = requests.Response()
    response.status_code = status
    assert (passing_error(requests.HTTPError(response=response)) is not None) is again


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (requests.ReadTimeout(), True),
        (requests.exceptions.ChunkedEncodingError(), True),
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (requests.exceptions.InvalidURL(), False),
        (ValueError(), False),
    ],
)
def test_which_error_is_worth_another_attempt(error: Exception, again: bool) -> None:
    assert (passing_error(error) is not None) is again


def test_retry_after_is_a_number_or_a_date() -> None:
    now = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
    assert retry_after({"Retry-After": "7"}) == 7.0
    assert retry_after({"retry-after": "Thu, 01 Jan 2026 12:01:30 GMT"}, now) == 90.0
    assert retry_after({"Retry-After": "Thu, 01 Jan 2026 11:00:00 GMT"}, now) == 0.0
    assert retry_after({"Retry-After": "soon"}) is None
    assert retry_after({}) is None
    assert passing_status(503, {"Retry-After": "7"}).after == 7.0
    assert passing_status(500, {"Retry-After": "7"}).after is None


def test_a_page_for_people_is_told_from_data() -> None:
    assert is_page(b"\n<!DOCTYPE html><html>")
    assert is_page(b"<HTML>")
    assert is_page(b"anything", "text/html; charset=utf-8")
    assert not is_page(b'{"a": 1}', "application/json")
    assert not is_page(b"SIMPLE  =                    T", "application/octet-stream")


def test_results_come_in_order_and_the_first_error_is_raised() -> None:
    stop = threading.Event()

    def slow_first(number: int) -> int:
        time.sleep(0.05 if number == 0 else 0.0)
        if number == 3:
            raise ValueError("three")
        return number * 10

    results = in_parallel(slow_first, range(6), 3, stop)
    assert [next(results) for _ in range(3)] == [0, 10, 20]
    with pytest.raises(ValueError, match="three"):
        next(results)


def test_a_stopped_run_hands_out_no_more() -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(StoppedError):
        list(in_parallel(lambda number: number, range(3), 2, stop))


def test_a_session_with_the_adapter_gets_over_every_fault_and_keeps_the_time_limit() -> None:
    kinds = [Fault("500"), Fault("cut", 0.9), Fault("cut", 0.2, reset=True), Fault("429"), Fault("slow", seconds=1.0)]
    server = ArchiveServer({"/": lambda _: Reply(b"x" * 4000, "text/plain")}, faults.Listed({"/data": tuple(kinds)}))
    with server, requests.Session() as session:
        session.mount("http://", PoliteAdapter(Manners(200.0, 6), timeout=0.1))
        assert session.get(f"{server.url}/data").content == b"x" * 4000
        assert server.total == 6
