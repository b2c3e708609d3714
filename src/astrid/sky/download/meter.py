"""How far a download is: files, bytes, rate, time left."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from astrid.core.runtime import log
from astrid.sky.download.plan import Item

_REPORT_SECONDS = 10.0
_MB = 1e6  # bytes


class Meter:
    """Counts from all threads and says now and then how far it is."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._start = self._last = time.monotonic()
        self._arrived = self._done = self._aside = self._bytes = self._known = self._count = 0

    def begin(self, items: Sequence[Item]) -> None:
        """Start the clock for these files."""
        self._start = self._last = time.monotonic()
        self._count = len(items)
        self._known = sum(item.size for item in items)

    def arrived(self, count: int) -> None:
        """`count` more bytes came over the network."""
        with self._lock:
            self._arrived += count

    def finished(self, item: Item, *, aside: bool) -> None:
        """A file is in place or set aside."""
        self._done += 1
        self._aside += aside
        self._bytes += item.size
        self.tell()

    def tell(self) -> None:
        """Log a line if the last one is long enough ago."""
        now = time.monotonic()
        if now - self._last >= _REPORT_SECONDS:
            self._last = now
            log.info("%s", self.line(now - self._start))

    def line(self, seconds: float) -> str:
        """For example "download: 40 of 210 files, 310 MB, 4.1 MB/s, 12.3 min left, 2 set aside"."""
        rate = self._arrived / max(seconds, 1e-3)
        left = ""
        if self._known and self._bytes:  # by bytes where sizes are known, as files differ
            left = f", {seconds * max(self._known - self._bytes, 0) / self._bytes / 60:.1f} min left"
        elif self._done:
            left = f", {seconds * (self._count - self._done) / self._done / 60:.1f} min left"
        aside = f", {self._aside} set aside" if self._aside else ""
        return f"download: {self._done} of {self._count} files, {self._arrived / _MB:.0f} MB, {rate / _MB:.2g} MB/s{left}{aside}"

    def end(self) -> None:
        """Say the sum of it."""
        seconds = time.monotonic() - self._start
        if self._count:
            log.info("download: %d files, %.0f MB in %.1f s, %d set aside", self._done, self._arrived / _MB, seconds, self._aside)
