"""From what a caller gives to what is stored: settings checked, rows streamed, every fault named."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.infrastructure.resilience._frozen import Faults, is_dict
from holdfast.infrastructure.resilience.backoff import Backoff
from holdfast.infrastructure.store.payload import PayloadError, encode
from holdfast.infrastructure.store.state import ConflictError, NewStep, SubmissionError
from holdfast.services.jobs._outcomes import plain
from holdfast.services.jobs._source_text import fingerprint_of
from holdfast.services.jobs.rows import Fingerprint, RowFault, SourceChangedError
from holdfast.services.jobs.sources import FileSource, Source, source
from holdfast.services.jobs.steps import Step

if TYPE_CHECKING:
    from collections.abc import Iterator

    from holdfast.infrastructure.store.state import JobRecord
    from holdfast.services.jobs.handlers import Handler

_MOST = 100
_YEAR = 365 * 86_400.0
_NOTHING = encode(None)


def check(
    *,
    priority: object,
    on_error: object,
    max_attempts: object,
    backoff: object,
    step_timeout: object,
    job_timeout: object,
    expires_in: object,
    concurrency: object,
    rate: object,
) -> None:
    """Raise ConfigurationError with everything that is wrong with the settings of a submission."""
    faults = Faults("submit")
    faults.number("priority", priority, 1, 4, whole=True)
    faults.number("max_attempts", max_attempts, 1, 1000, whole=True)
    ok = backoff is None or isinstance(backoff, Backoff)
    faults.check(ok, "backoff", backoff, "is no Backoff", "give backoff(base=…, cap=…)")
    for name, value in (
        ("step_timeout", step_timeout),
        ("job_timeout", job_timeout),
        ("expires_in", expires_in),
    ):
        faults.number(name, value, 0, _YEAR, optional=True, above=True)
    faults.number("concurrency", concurrency, 1, 10_000, whole=True, optional=True)
    faults.number("rate", rate, 0, 1_000_000, optional=True, above=True)
    _check_policy(faults, on_error)
    faults.finish()


def _check_policy(faults: Faults, on_error: object) -> None:
    remedy = 'give "continue", "fail_fast", a whole number of failures, or a share between 0 and 1'
    if isinstance(on_error, str):
        faults.check(on_error in {"continue", "fail_fast"}, "on_error", on_error, "is unknown", remedy)
    elif isinstance(on_error, float):
        faults.check(0 < on_error < 1, "on_error", on_error, "is no share", remedy)
    else:
        ok = isinstance(on_error, int) and not isinstance(on_error, bool) and on_error > 0
        faults.check(ok, "on_error", on_error, "is no error policy", remedy)


def stops(on_error: str | float) -> tuple[int | None, float | None]:
    """Return after how many failures, and above which share of them, a job halts."""
    if on_error == "continue":
        return None, None
    if on_error == "fail_fast":
        return 1, None
    return (None, on_error) if isinstance(on_error, float) else (int(on_error), None)


class Submission:
    """The steps of a submission in a stream; what is wrong with rows is told at its end, all together."""

    def __init__(self, rows: Any, key: Any, handler: Handler) -> None:
        self._handler = handler
        self._faults: list[str] = []
        self._more = 0
        self.source = _source_of(rows, key)
        self.fingerprint = None if self.source is None else self.source.fingerprint()
        self._rows = rows
        self._key = key

    @property
    def file(self) -> dict[str, Any] | None:
        """What a job's settings keep of the file that its rows came from."""
        if not isinstance(self.source, FileSource) or self.fingerprint is None:
            return None
        return {"path": str(self.source.path.resolve()), "was": list(self.fingerprint)}

    def __iter__(self) -> Iterator[NewStep]:
        """Yield the steps; raise SubmissionError at the end if anything was wrong."""
        if self.source is None:
            yield from self._from_items()
        else:
            yield from self._from_source(self.source)
        if self._faults:
            raise SubmissionError(self._faults, self._more)

    def _from_source(self, rows: Source) -> Iterator[NewStep]:
        for row in rows.entries():
            if isinstance(row, RowFault):
                self._note(str(row))
            else:
                yield self._step(
                    Step(payload=dict(row.values), key=row.key, line=row.line), row.key, row.line
                )
        read = rows.fingerprint()
        if self.fingerprint is not None and read is not None and not read.is_content_of(self.fingerprint):
            raise SourceChangedError(rows.name, "was changed while it was read", "submit it again")

    def _from_items(self) -> Iterator[NewStep]:
        for line, item in enumerate(self._rows, 1):
            step = item if isinstance(item, Step) else Step(payload=item)
            name = step.key or self._named(step.payload, line)
            if name is not None:
                yield self._step(step, name, step.line or line)

    def _named(self, payload: Any, line: int) -> str | None:
        """Return the key of a payload, None if it has none."""
        if self._key is None:
            return f"line:{line}"
        try:
            found = self._key(payload) if callable(self._key) else _field(payload, self._key)
        except Exception as error:
            self._note(f"line {line}: no key can be made of it ({type(error).__name__}: {error})")
            return None
        if found is None or found == "":
            self._note(f"line {line}: its key {self._key!r} is empty; give every row a key")
            return None
        return str(found)

    def _step(self, step: Step, name: str, line: int) -> NewStep:
        return NewStep(
            key=name,
            payload=self._encoded(step.payload, name, line),
            line=line,
            depends_on=tuple(step.depends_on),
            must_succeed=step.must_succeed,
            timeout=step.timeout,
            target=step.target,
        )

    def _encoded(self, payload: Any, name: str, line: int) -> bytes:
        """Return a payload as it is stored; after a fault something else, which never is: all is refused."""
        try:
            if self._handler._validate is not None:
                valid = self._handler._validate(payload)
                payload = payload if valid is None else valid
            return encode(plain(payload))
        except PayloadError as error:
            self._note(f"{_where(name, line)}: {error}")
        except Exception as error:  # of whatever kind: the validator is the user's
            self._note(f"{_where(name, line)}: {str(error) or type(error).__name__}")
        return _NOTHING

    def _note(self, fault: str) -> None:
        if len(self._faults) < _MOST:
            self._faults.append(fault)
        else:
            self._more += 1


def check_file(job: JobRecord) -> None:
    """Raise ConflictError if the file that a job's rows came from is here, and is not what it was."""
    kept = job.new.settings.get("file")
    if kept is None or not Path(kept["path"]).exists():
        return
    was, now = Fingerprint(*kept["was"]), fingerprint_of(Path(kept["path"]))
    if not now.is_content_of(was):
        raise ConflictError(f"the file of job {job.id!r}, {kept['path']}", was.sha256, now.sha256)


def _source_of(rows: Any, key: Any) -> Source | None:
    """Return the source that something is, None for an iterable of payloads or steps."""
    if isinstance(rows, Source):
        faults = Faults("submit")
        faults.check(
            key is None, "key", key, "has no effect: the source knows its keys", "give it to the source"
        )
        faults.finish()
        return rows
    if isinstance(rows, (str, PathLike)):
        return source(rows) if key is None else source(rows, key=key)
    if isinstance(rows, bytes) or is_dict(rows) or not hasattr(rows, "__iter__"):
        faults = Faults("submit")
        faults.add("source", rows, "is no source", "give a path, a source or an iterable of payloads")
        faults.finish()
    return None


def _field(payload: Any, key: str) -> Any:
    return payload[key] if hasattr(payload, "__getitem__") else getattr(payload, key)


def _where(name: str, line: int) -> str:
    return f"line {line}" if name == f"line:{line}" else f"line {line}, row {name!r}"
