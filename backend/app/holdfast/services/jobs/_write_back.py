"""From the outbox back to where rows came from: what is due, in one go for each job, by one worker at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.infrastructure.resilience._frozen import Faults, is_dict
from holdfast.infrastructure.resilience.backoff import Backoff
from holdfast.infrastructure.store import _boundaries
from holdfast.infrastructure.store.payload import decode
from holdfast.infrastructure.store.state import NotFoundError, OutboxState
from holdfast.services.jobs._imports import imported, reference_of
from holdfast.services.jobs._outcomes import text
from holdfast.services.jobs.rows import Fingerprint, SourceChangedError
from holdfast.services.jobs.sources import CsvSource, ExcelSource, FileSource, JsonLinesSource
from holdfast.services.jobs.writeback import WriteBack, WriteBackBusyError, write_back

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.infrastructure.store.state import JobRecord, OutboxEntry, StateStore
    from holdfast.services.jobs.sources import Source

_log = logging.getLogger("holdfast.jobs")
_MOST_AT_ONCE = 50_000
_ATTEMPTS = 5
_LEASE = 300.0
_WAITS = Backoff(base=1.0, cap=60.0, jitter="none")
_BAD_ONES = 50
_ANNOUNCED = "write-back announced"


# What a submission says of it ---------------------------------------------------------------------------------


def described(wanted: Any, source: Source | None) -> dict[str, Any]:
    """Return what a job's settings keep of its write-back. ConfigurationError."""
    if isinstance(wanted, str) and ":" in wanted:
        imported(wanted)
        return {"maker": wanted}
    if callable(wanted) and not isinstance(wanted, WriteBack):
        return {"maker": _importable(wanted)}
    faults = Faults("write_back")
    if not isinstance(wanted, Mapping):
        remedy = 'map fields of results to columns, or name a function that makes it, "module:function"'
        faults.add("write_back", wanted, "says not where results go", remedy)
    elif not isinstance(source, FileSource):
        remedy = 'submit a file, or name a function that makes the write-back, "module:function"'
        faults.add("source", source, "is no file to write to", remedy)
    elif callable(source.key):
        faults.add("key", source.key, "is a function, which no other process knows", "name columns")
    faults.finish()
    assert isinstance(source, FileSource)  # noqa: S101  # for type checkers: a fault otherwise
    columns = _columns(wanted)
    write_back(source, columns)
    return {"columns": columns, "source": _description(source), "was": list(source.fingerprint())}


def _columns(wanted: Any) -> dict[str, str]:
    return dict(wanted)


def _importable(maker: Any) -> str:
    reference = reference_of(maker)
    faults = Faults("write_back")
    problem = "cannot be imported by another process"
    faults.check("<" not in reference, "write_back", maker, problem, "define it at the top of a module")
    faults.finish()
    return reference


def _description(source: FileSource) -> dict[str, Any]:
    kept: dict[str, Any] = {"path": str(source.path.resolve()), "key": source.key}
    if isinstance(source, CsvSource):
        blank, ragged = source._rules
        columns = None if source._columns is None else list(source._columns)
        kept |= {"kind": "csv", "columns": columns, "encoding": source._encoding, "blank": blank}
        kept |= {"ragged": ragged, **source._signs._asdict()}
    elif isinstance(source, ExcelSource):
        blank, ragged = source._rules
        kept |= {"kind": "excel", "sheet": source.sheet, "blank": blank, "ragged": ragged}
    elif isinstance(source, JsonLinesSource):
        kept |= {"kind": "jsonl", "encoding": source._encoding, "blank": source._blank}
    if not isinstance(kept["key"], str | None):
        kept["key"] = list(kept["key"])
    return kept


def source_of(kept: Mapping[str, Any]) -> FileSource:
    """Return the file that a job's settings describe."""
    options = {name: value for name, value in kept.items() if name not in {"kind", "path"}}
    kinds: dict[str, Callable[..., FileSource]] = {
        "csv": CsvSource,
        "excel": ExcelSource,
        "jsonl": JsonLinesSource,
    }
    return kinds[kept["kind"]](Path(kept["path"]), **options)


# Writing ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Drained:
    """What one go did: results that were written, those still waiting, and the store's time of the next try.

    `busy`: why nothing could be done now, because somebody else writes.
    """

    written: int = 0
    waiting: int = 0
    due_at: float = 0.0
    busy: WriteBackBusyError | None = None


class _Known:
    """What the file of a job was announced to become, as far as its history was read."""

    def __init__(self) -> None:
        self.seq = 0
        self.prints: list[Fingerprint] = []


class Drain:
    """Writes results back; remembers which states of a file were announced, by whomever."""

    def __init__(self, store: StateStore) -> None:
        self._store = store
        self._announced: dict[str, _Known] = {}

    def drain(self, job: JobRecord, worker: str, *, dead: bool = False) -> Drained:
        """Write what is due, unless another worker does so now; with `dead`, all that is not written."""
        name = f"write-back of {job.id}"
        lock = self._store.acquire(name, worker, _LEASE)
        if lock is None:
            return Drained(waiting=1, due_at=self._store.now() + 1.0, busy=self._busy(name, job))
        try:
            return self._drain(job, dead=dead)
        finally:
            self._store.unlock(lock)

    def _busy(self, name: str, job: JobRecord) -> WriteBackBusyError:
        """Return the error that says who writes the results of a job back now."""
        lock = self._store.lock(name)
        owner = "another worker" if lock is None else f"worker {lock.owner!r}"
        by = next((one for one in self._store.workers() if lock is not None and one.id == lock.owner), None)
        where = "" if by is None else f", process {by.pid} on {by.host.partition('/')[0]}"
        problem = f"{owner}{where}, writes them back now"
        return WriteBackBusyError(f"results of job {job.id!r}", problem, "wait until it is done, or end it")

    def _drain(self, job: JobRecord, *, dead: bool) -> Drained:
        states = [OutboxState.PENDING, OutboxState.DEAD] if dead else [OutboxState.PENDING]
        found = self._store.outbox(job.id, states=states, limit=_MOST_AT_ONCE)
        now = self._store.now()
        due = found if dead else [entry for entry in found if entry.due_at <= now]
        busy: WriteBackBusyError | None = None
        try:
            settled = self._write(job, due, now) if due else []
        except WriteBackBusyError as error:
            busy = error
            settled = [replace(entry, due_at=now + 1.0, error=text(error)) for entry in due]
        if settled:
            self._store.settle_outbox(settled)
        left = {entry.position: entry for entry in (*found, *settled)}
        waiting = [entry for entry in left.values() if entry.state is OutboxState.PENDING]
        return Drained(
            written=sum(entry.state is OutboxState.WRITTEN for entry in settled),
            waiting=len(waiting),
            due_at=min((entry.due_at for entry in waiting), default=0.0),
            busy=busy,
        )

    def _write(self, job: JobRecord, due: Sequence[OutboxEntry], now: float) -> list[OutboxEntry]:
        try:
            self._apply(job, due)
        except WriteBackBusyError:
            raise
        except SourceChangedError as error:
            _log.warning("results of job %s are not written back: %s", job.id, error)
            return [_dead(entry, error) for entry in due]
        except Exception as error:
            return self._failed(job, due, error, now)
        return [_written(entry) for entry in due]

    def _failed(
        self, job: JobRecord, due: Sequence[OutboxEntry], error: Exception, now: float
    ) -> list[OutboxEntry]:
        tried = max(entry.attempts for entry in due) + 1
        if tried < _ATTEMPTS:
            again = now + _WAITS.delay(tried)
            return [replace(one, attempts=tried, due_at=again, error=text(error)) for one in due]
        _log.warning("results of job %s could not be written back: %s", job.id, error)
        return self._apart(job, list(due), error, [_BAD_ONES])

    def _apart(
        self, job: JobRecord, due: list[OutboxEntry], error: Exception, left: list[int]
    ) -> list[OutboxEntry]:
        """Find the results that cannot be written among those that together could not, while there are few."""
        if len(due) == 1 or left[0] <= 0:
            left[0] -= 1
            return [_dead(entry, error) for entry in due]
        settled: list[OutboxEntry] = []
        for half in (due[: len(due) // 2], due[len(due) // 2 :]):
            try:
                self._apply(job, half)
            except Exception as why:
                settled += self._apart(job, half, why, left)
            else:
                settled += [_written(entry) for entry in half]
        return settled

    def _apply(self, job: JobRecord, due: Sequence[OutboxEntry]) -> None:
        kept = job.new.settings["write_back"]
        results = [(entry.key, _fields(decode(entry.result))) for entry in due]
        _boundaries.reach("engine.before_write_back")
        if "maker" in kept:
            imported(kept["maker"])(job).apply(results)
        else:
            target = write_back(source_of(kept["source"]), kept["columns"])
            first = self._first(job)
            expected = [Fingerprint(*kept["was"]), *self._known(first)]
            target.apply(results, expected=expected, announce=lambda print_: self._announce(first, print_))
        _boundaries.reach("engine.after_write_back")

    def _first(self, job: JobRecord) -> str:
        """Return the job of which this one is a retry, or itself: all of them write to one file, and keep one list."""
        try:
            while job.new.retry_of is not None:
                job = self._store.job(job.new.retry_of)
        except NotFoundError:
            pass  # archived
        return job.id

    def _known(self, first: str) -> list[Fingerprint]:
        """Return what write-backs have announced that the file would be."""
        known = self._announced.setdefault(first, _Known())
        while notes := self._store.events(first, after=known.seq, kinds=["note"]):
            told = [note.data for note in notes if note.state == _ANNOUNCED]
            known.prints += [Fingerprint(one["size"], one["mtime_ns"], one["sha256"]) for one in told]
            known.seq = notes[-1].seq
        return known.prints

    def _announce(self, first: str, print_: Fingerprint) -> None:
        self._store.note(first, _ANNOUNCED, print_._asdict())


def _written(entry: OutboxEntry) -> OutboxEntry:
    return replace(entry, state=OutboxState.WRITTEN, attempts=entry.attempts + 1, error="")


def _dead(entry: OutboxEntry, error: Exception) -> OutboxEntry:
    return replace(entry, state=OutboxState.DEAD, attempts=entry.attempts + 1, error=text(error))


def _fields(result: Any) -> dict[str, Any]:
    return result if is_dict(result) else {"result": result}
