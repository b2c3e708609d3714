"""Many files at once: what is there is left alone, what is not is fetched, checked and placed, and what cannot be used is said."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import queue
import shutil
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from astrid.config.schema.archive import DownloadConfig
from astrid.core.errors import InputError
from astrid.core.provenance import digest_file
from astrid.core.records import Problem
from astrid.core.runtime import log
from astrid.io.archive_tables import CHOSEN
from astrid.io.tables import conform
from astrid.sky.download.kept import JOURNAL, take_back, work_folder
from astrid.sky.download.memory import Memory, Stamp
from astrid.sky.download.meter import Meter
from astrid.sky.download.plan import GB, PASSING, Item, Loss, Place, make_plan, need_disk, safe, within_budget
from astrid.sky.download.transfer import RefusedError, Transfers, clear
from astrid.sky.download.unpack import unpack
from astrid.sky.download.verify import DamagedError, UnusableError, check_bytes, check_fits, is_fits
from astrid.sky.manners import ArchiveError, PassingError, StoppedError

_SILENT = 10  # files in a row without an answer after which the archive counts as down
_LEAVE = 2.0  # s that running transfers get to end after Ctrl-C
_COLUMNS = ("path", "bytes", "sha256")  # of a file in place, beside those of CHOSEN


@dataclass(frozen=True, eq=False)
class Fetched:
    """What is in place after a run, and what is not."""

    files: pd.DataFrame  # CHOSEN columns, path (relative to the root), bytes, sha256; sorted by path; one row a member of a .tar
    missing: pd.DataFrame  # CHOSEN columns, why (one of plan.Why) and reason; sorted as chosen
    problems: tuple[Problem, ...]  # the same, one a file: its URI and why

    @property
    def paths(self) -> tuple[str, ...]:
        """The files in place, relative to the root."""
        return tuple(self.files["path"])

    @property
    def passing(self) -> int:
        """How many of the missing may come another time."""
        return int((self.missing["why"] == PASSING).sum())


@dataclass(frozen=True)
class _Result:
    item: Item
    stamps: tuple[tuple[Place, tuple[Stamp, ...]], ...] = ()  # what was placed
    refused: tuple[tuple[Place, Loss], ...] = ()  # what was not, and why
    silent: bool = False  # the archive did not answer
    error: BaseException | None = None  # a defect or a full disk, which ends the run


def fetch(
    chosen: pd.DataFrame, catalog: pd.DataFrame, root: Path, cfg: DownloadConfig, *, seed: int = 0, work: Path | None = None
) -> Fetched:
    """Bring the chosen files to `<root>/<mission>/<event>/<role>/<filename>`, verified; a .tar product becomes a folder of its files.

    A run that was interrupted in any way is taken up again by the same call; files that were verified are not asked for again.

    Parameters
    ----------
    chosen
        CHOSEN.
    catalog
        CATALOG; its events (object_id, s_ra, s_dec) must lie in their images.
    root
        Folder of the files, e.g. data/raw.
    cfg
        Servers, limits.
    seed
        Of the jitter in the pauses between attempts; nothing that is kept depends on it.
    work
        Folder of what is under way, on the same disk as `root`; None = `work_folder(root)`.

    Raises
    ------
    InputError
        The disk is too small for what is to be fetched, or another run fetches into the same folder.
    """
    chosen = conform(chosen, CHOSEN, source="the chosen files").reset_index(drop=True)
    work = work or work_folder(root)
    work.mkdir(parents=True, exist_ok=True)
    with _alone(work):
        run = _Run(root, work, cfg, seed)
        plan = make_plan(chosen, catalog)
        results = run.there(plan.items)
        found = {result.item.uri for result in results}
        wanted = [item for item in plan.items if item.uri not in found]
        allowed, beyond = within_budget(wanted, sum(_bytes(result) for result in results), cfg)
        need_disk(allowed, work, shutil.disk_usage(work).free)
        if found:
            log.info("download: %d of %d files are in place", len(found), len(plan.items))
        results += [_lost(item, loss) for item, loss in beyond]
        results += run.fetch(allowed)
        run.tidy(plan.items, [result.item for result in results if result.refused])
    return _fetched(chosen, results, plan.problems)


def _lost(item: Item, loss: Loss) -> _Result:
    return _Result(item, refused=tuple((place, loss) for place in item.places))


def _bytes(result: _Result) -> int:
    return sum(stamp.size for _, stamps in result.stamps[:1] for stamp in stamps)


@contextlib.contextmanager
def _alone(work: Path) -> Iterator[None]:
    """One run at a time; the lock goes with the process that holds it."""
    with (work / "lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"another run fetches files with {work}; wait until it ends.") from None
        yield


class _Run:
    """One call of `fetch`."""

    def __init__(self, root: Path, work: Path, cfg: DownloadConfig, seed: int) -> None:
        self._root = root
        self._cfg = cfg
        self._beside = work
        self._partial = work / "partial"
        self._aside = work / "quarantine"
        self._memory = Memory(work / JOURNAL, root)
        self._meter = Meter()
        self._transfers = Transfers(cfg, seed, self._meter.arrived)

    # What is there

    def there(self, items: Sequence[Item]) -> list[_Result]:
        """The items of which every place holds a verified file, or can be given one without asking anybody."""
        return [result for item in items if (result := self._at_hand(item)) is not None]

    def _at_hand(self, item: Item) -> _Result | None:
        stamps = {place: stamp for place in item.places if (stamp := self._recall(item, place)) is not None}
        missing = [place for place in item.places if place not in stamps]
        if not missing:
            return _Result(item, tuple(stamps.items()))
        aside = self._aside / self._name(item)
        if stamps and not item.packed:
            source = self._root / next(iter(stamps)).path  # another event has it
        elif aside.is_file():
            source = aside
        else:
            return None
        try:
            check_bytes(source, item.size, item.checksum)
            result = self._placed(item, source, missing)
        except DamagedError as error:
            return _Result(item, tuple(stamps.items()), tuple((place, _broken(error)) for place in missing))
        return _Result(item, (*stamps.items(), *result.stamps), result.refused)

    def _recall(self, item: Item, place: Place) -> tuple[Stamp, ...] | None:
        key = f"{item.key} {place.image} {place.target}"
        take_back(self._beside, self._root, place.path)
        stamps = self._memory.recall(place.path, key)
        if stamps is not None:
            return stamps
        file = self._root / place.path
        if not file.exists() or item.packed != file.is_dir() or self._memory.knows(place.path, key):
            return None
        try:  # put there by `dvc pull`, say: as good as one that has just arrived
            if item.packed:
                self._check_members(sorted(member for member in file.rglob("*") if member.is_file()), place)
            else:
                check_bytes(file, item.size, item.checksum)
                self._check(file, item, place)
        except (DamagedError, UnusableError):
            return None  # what is fetched instead takes its place
        return self._remember(item, place)

    # What is not

    def fetch(self, items: Sequence[Item]) -> list[_Result]:
        """Fetch in threads and hand the results together, in the order of the items."""
        todo: queue.SimpleQueue[Item | None] = queue.SimpleQueue()
        done: queue.SimpleQueue[_Result] = queue.SimpleQueue()
        for item in items:
            todo.put(item)
        threads = [
            threading.Thread(target=self._work, args=(todo, done), name=f"download-{number}", daemon=True)
            for number in range(min(self._cfg.parallel, len(items)))
        ]
        for thread in threads:
            todo.put(None)
            thread.start()
        results: dict[str, _Result] = {}
        silent = 0
        self._meter.begin(items)
        try:
            while len(results) < len(items):
                result = self._next(done)
                if result.error is not None:
                    raise result.error
                results[result.item.uri] = result
                silent = silent + 1 if result.silent else 0
                if silent == _SILENT:
                    self._transfers.stop.set()
                    break
                self._meter.finished(result.item, aside=not result.stamps)
        except BaseException:
            self._transfers.stop.set()
            for thread in threads:
                thread.join(_LEAVE / len(threads))
            raise
        for thread in threads:
            thread.join()
        while not done.empty():
            last = done.get()
            results[last.item.uri] = last
        self._meter.end()
        down = f"it was not asked for, as the archive gave no answer for {_SILENT} files in a row; run it again when the archive is back"
        return [results.get(item.uri) or _lost(item, Loss(PASSING, down)) for item in items]

    def _next(self, done: queue.SimpleQueue[_Result]) -> _Result:
        while True:
            try:
                return done.get(timeout=1.0)
            except queue.Empty:
                self._meter.tell()

    def _work(self, todo: queue.SimpleQueue[Item | None], done: queue.SimpleQueue[_Result]) -> None:
        while (item := todo.get()) is not None and not self._transfers.stop.is_set():
            try:
                done.put(self._one(item))
            except StoppedError:
                return
            except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits
                done.put(_Result(item, error=error))
                return

    def _one(self, item: Item) -> _Result:
        part = self._partial / self._name(item)
        seen: set[str] = set()
        placed: list[_Result] = []
        try:
            self._transfers.fetch(item, part, lambda: placed.append(self._accepted(item, part, seen)))
        except (RefusedError, ArchiveError) as error:
            if isinstance(error, RefusedError):
                clear(part)
            reason = str(error).removeprefix(f"{item.uri}: ").rstrip(".")
            silent = isinstance(error, ArchiveError) and not self._transfers.answered(item)
            why = error.why if isinstance(error, RefusedError) else PASSING
            return dataclasses.replace(_lost(item, Loss(why, reason)), silent=silent)
        return placed[0]

    def _accepted(self, item: Item, part: Path, seen: set[str]) -> _Result:
        """Place what has arrived; bytes that arrive the same twice are the archive's, whatever is wrong with them."""
        try:
            check_bytes(part, item.size, item.checksum)
            result = self._placed(item, part, item.places)
        except DamagedError as error:
            content = digest_file(part)
            if content not in seen:
                seen.add(content)
                clear(part)
                raise PassingError(str(error)) from error
            self._set_aside(item, part)
            result = _lost(item, _broken(error))
        clear(part)
        return result

    def _placed(self, item: Item, source: Path, places: Sequence[Place]) -> _Result:
        """Check a whole file for each place and give it its name there; what is of no use somewhere is set aside."""
        good, refused = [], []
        for place in places:
            try:
                self._put(item, source, place)
            except UnusableError as error:
                refused.append((place, Loss(error.why, str(error))))
                continue
            good.append((place, self._remember(item, place)))
        if refused and source.parent == self._partial:
            self._set_aside(item, source)
        return _Result(item, tuple(good), tuple(refused))

    def _set_aside(self, item: Item, source: Path) -> None:
        """Keep a whole file that is of no use, so that nobody asks for it again; delete it to have it fetched anew."""
        self._aside.mkdir(parents=True, exist_ok=True)
        source.replace(self._aside / self._name(item))

    def _put(self, item: Item, source: Path, place: Place) -> None:
        target = self._root / place.path
        if item.packed:
            folder = self._partial / f"{self._name(item)}.unpacked"
            self._check_members(unpack(source, folder, self._cfg.max_file_gb * GB), place)
            _remove(target)
            target.parent.mkdir(parents=True, exist_ok=True)
            folder.rename(target)
            return
        self._check(source, item, place)
        if target.is_dir():
            _remove(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        link = self._partial / f"{self._name(item)}.{place.row}.link"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        try:
            os.link(source, link)  # several events share the bytes
        except OSError:
            shutil.copyfile(source, link)
        with link.open("rb") as stream:
            os.fsync(stream.fileno())
        link.replace(target)

    def _check(self, file: Path, item: Item, place: Place) -> None:
        if is_fits(item.filename):
            check_fits(file, place.target, image=place.image, sized=bool(item.size or item.checksum))
        elif place.image:
            raise UnusableError(f"{item.filename} is no FITS file by its name")

    def _check_members(self, files: Sequence[Path], place: Place) -> None:
        """Every FITS file of a .tar must be readable, and one of them be an image of the event."""
        images = [file for file in files if is_fits(file.name)]
        for file in images:
            check_fits(file, None, image=False, sized=True)
        reasons = []
        for file in images if place.image else ():
            try:
                return check_fits(file, place.target, image=True, sized=True)
            except UnusableError as error:
                reasons.append(str(error))
        if place.image:
            reason = f"none of its {len(files)} files is an image of the event" + (f": {reasons[0]}" if reasons else "")
            raise UnusableError(reason, "not inside")
        return None

    def _remember(self, item: Item, place: Place) -> tuple[Stamp, ...]:
        return self._memory.remember(place.path, f"{item.key} {place.image} {place.target}")

    def _name(self, item: Item) -> str:
        return f"{item.key}-{safe(item.filename)}"

    def tidy(self, items: Sequence[Item], missing: Sequence[Item]) -> None:
        """Remove what is under way of files that are in place, and what nobody wants any more; `missing`: items that may go on."""
        for folder, kept in ((self._partial, missing), (self._aside, items)):
            names = tuple(item.key for item in kept)
            for file in folder.iterdir() if folder.is_dir() else ():
                if file.is_dir() or not file.name.startswith(names):
                    _remove(file)


def _broken(error: DamagedError) -> Loss:
    return Loss("file broken", f"{error}, and came so twice, byte for byte")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _fetched(chosen: pd.DataFrame, results: Sequence[_Result], refused: Sequence[tuple[int, Loss]]) -> Fetched:
    rows, lost = [], dict(refused)
    for result in results:
        for place, stamps in result.stamps:
            for stamp in stamps:
                path = f"{place.path}/{stamp.name}" if stamp.name else place.path
                rows.append((place.row, path, stamp.size, stamp.sha256))
        for place, loss in result.refused:
            lost[place.row] = loss
    rows.sort(key=lambda row: row[1])
    files = chosen.iloc[[row[0] for row in rows]].reset_index(drop=True)
    for index, column in enumerate(_COLUMNS, 1):
        files[column] = [row[index] for row in rows]
    numbers = sorted(lost)
    missing = chosen.iloc[numbers].reset_index(drop=True)
    missing["why"] = [lost[number].why for number in numbers]
    missing["reason"] = [f"{lost[number].reason}." for number in numbers]
    problems = {uri: Problem(uri, reason) for uri, reason in zip(missing["uri"], missing["reason"], strict=True)}
    return Fetched(files, missing, tuple(problems.values()))
