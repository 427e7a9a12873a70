"""Submission over HTTP: rows or steps as JSON, or a CSV file; all faults at once."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Any

from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from holdfast.api.internal.jobs import _http, _models
from holdfast.api.internal.jobs._facts import job_facts
from holdfast.infrastructure.resilience._frozen import is_dict, is_list
from holdfast.infrastructure.resilience.backoff import Backoff
from holdfast.infrastructure.resilience.errors import ConfigurationError
from holdfast.infrastructure.store.memory import MemoryStateStore
from holdfast.infrastructure.store.state import SubmissionError
from holdfast.services.jobs._process import new_id
from holdfast.services.jobs.handlers import Handler
from holdfast.services.jobs.jobs import Jobs
from holdfast.services.jobs.sources import CsvSource, Source, SourceError
from holdfast.services.jobs.steps import Step

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from holdfast.api.internal.jobs._context import Context
    from holdfast.services.jobs.rows import Row, RowFault

_CSV = "text/csv"
_MOST = 200
_EXACT = {"rows", "payload"}
_OF_ROWS = {"handler", "key", "rows", "steps", "backoff", "delimiter", "encoding"}
_Faults = list[dict[str, Any]]


class CsvSettings(_models.Settings):
    """How a job of a CSV file is executed, and how the file is written, where that cannot be seen."""

    model_config = ConfigDict(extra="forbid", strict=False)

    delimiter: str | None = Field(None, min_length=1, max_length=1)
    encoding: str | None = Field(None, min_length=1, max_length=40)


class Submission:
    """The routes of submission."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._add("/jobs", self.submit_job, _models.NewJob)
        content = {_CSV: {"schema": {"type": "string"}}}
        self._add("/jobs/csv", self.submit_csv, content, parameters=_parameters(CsvSettings))
        context.operates("/jobs/check", self.check_job, _models.Checked, _models.NewJob)

    def _add(self, path: str, endpoint: Any, body: Any, **extra: Any) -> None:
        known = {"model": _models.JobSummary, "description": "The first job of this `dedup_key`"}
        self._context.operates(
            path,
            endpoint,
            _models.JobSummary,
            body,
            status_code=201,
            responses={200: known},
            extra=extra,
        )

    async def submit_job(self, request: Request, response: Response) -> dict[str, Any]:
        """Store a job and all its steps, or nothing; a known `dedup_key` gives the first job. All faults are told."""
        body = await _http.submitted(request, "application/json", self._context.body_bytes)
        return await asyncio.to_thread(self._take_json, request, response, body)

    async def submit_csv(self, request: Request, response: Response) -> dict[str, Any]:
        """Store a job of the rows of a CSV file, whose settings are in the query. All faults are told."""
        body = await _http.submitted(request, _CSV, self._context.body_bytes)
        return await asyncio.to_thread(self._take_csv, request, response, body)

    async def check_job(self, request: Request) -> dict[str, Any]:
        """Check what would be submitted; nothing is stored. `problem` is what a submission would be answered."""
        body = await _http.submitted(request, "application/json", self._context.body_bytes)
        await self._context.ajobs(request)
        return await asyncio.to_thread(self._check_json, body)

    def _check_json(self, body: bytes) -> dict[str, Any]:
        given = _http.parsed_json(body)
        settings, faults = _read(_models.NewJob, _floats(given), "body")
        rows = _rows_of(given, faults)
        handler = self._handler(settings, given, faults)
        faults += _faults_of(rows, handler, _key_of(given))
        return {"problem": _http.members(_http.refused(faults)) if faults else None}

    def _take_json(self, request: Request, response: Response, body: bytes) -> dict[str, Any]:
        given = _http.parsed_json(body)
        settings, faults = _read(_models.NewJob, _floats(given), "body")
        rows = _rows_of(given, faults)
        return self._submit(request, response, settings, given, rows, faults)

    def _take_csv(self, request: Request, response: Response, body: bytes) -> dict[str, Any]:
        given = dict(request.query_params)
        settings, faults = _read(CsvSettings, given, "query")
        with _file(body) as path:
            rows = _source_of(path, given, faults)
            return self._submit(request, response, settings, given, rows, faults)

    def _submit(
        self,
        request: Request,
        response: Response,
        settings: _models.Settings | None,
        given: Any,
        rows: Any,
        faults: _Faults,
    ) -> dict[str, Any]:
        jobs = self._context.jobs(request)
        handler = self._handler(settings, given, faults)
        key = None if isinstance(rows, Source) else _key_of(given)
        if faults or settings is None or handler is None:
            raise _http.refused(faults + _faults_of(rows, handler, key))
        job = new_id(jobs.store.now())
        options = settings.model_dump(exclude=_OF_ROWS)
        wanted = getattr(settings, "backoff", None)
        backoff = None if wanted is None else Backoff(**wanted.model_dump())
        record = jobs.submit(rows, handler, job_id=job, key=key, backoff=backoff, **options)
        response.status_code = 201 if record.id == job else 200
        return job_facts(record, jobs.store.now())

    def _handler(self, settings: Any, given: Any, faults: _Faults) -> Handler | None:
        """Return the handler that is named, if it is one of those that may be."""
        name = (
            given.get("handler")
            if settings is None and is_dict(given)
            else getattr(settings, "handler", None)
        )
        if not isinstance(name, str):
            return None
        handlers = self._context.tenants.handlers
        if name in handlers:
            return handlers.find(name)
        known = ", ".join(sorted(handlers)) or "none"
        faults.append(
            {"path": "handler", "problem": f"is unknown; known: {known}"[:_MOST], "value": name[:_MOST]}
        )
        return None


class _Column:
    """Takes the key of a row from a column."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, row: Any) -> Any:
        if not is_dict(row):
            raise TypeError("the row is no object")
        return row[self._name]

    def __repr__(self) -> str:
        return repr(self._name)


class _Body(Source):
    """The rows of a file that came with a request, and is gone after it."""

    def __init__(self, file: CsvSource) -> None:
        super().__init__("body", file.key)
        self._file = file

    def entries(self) -> Iterator[Row | RowFault]:
        """Yield rows and faults; where the file was kept is nobody's business."""
        try:
            yield from self._file.entries()
        except SourceError as error:
            raise SourceError(self.name, *error.args[1:]) from None


def _read(model: type[Any], values: Any, where: str) -> tuple[Any, _Faults]:
    """Return what a model makes of values, None if they are faulty, and the faults."""
    try:
        return model.model_validate(values), []
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        return None, [{"path": _path(where, one["loc"]), "problem": one["msg"]} for one in found]


def _path(where: str, place: tuple[int | str, ...]) -> str:
    return ".".join(map(str, (where, *place)))


def _floats(value: Any) -> Any:
    """Return settings with floats for exact numbers; payloads stay as they are."""
    if isinstance(value, Decimal):
        return float(value)
    if is_list(value):
        return [_floats(one) for one in value]
    if is_dict(value):
        return {name: one if name in _EXACT else _floats(one) for name, one in value.items()}
    return value


def _rows_of(given: Any, faults: _Faults) -> list[Any]:
    """Return the payloads or steps of a submission; none of one that is faulty."""
    if not is_dict(given):
        return []
    rows, steps = given.get("rows"), given.get("steps")
    if (rows is None) is (steps is None):
        faults.append({"path": "body", "problem": "needs either rows or steps"})
    if is_list(steps):
        return [_step(one) for one in steps if _is_step(one)]
    return list(rows) if is_list(rows) else []


def _is_step(given: Any) -> bool:
    try:
        _models.NewStep.model_validate(_floats(given))
    except ValidationError:
        return False
    return True


def _step(given: dict[str, Any]) -> Step:
    facts: dict[str, Any] = _floats({name: one for name, one in given.items() if name != "payload"})
    facts["depends_on"] = tuple(facts.get("depends_on", ()))
    return Step(payload=given["payload"], **facts)


def _key_of(given: Any) -> _Column | None:
    key = given.get("key") if is_dict(given) else None
    return _Column(key) if isinstance(key, str) and key else None


def _faults_of(rows: Any, handler: Handler | None, key: _Column | None) -> _Faults:
    """Return what else would be wrong: with rows, by the handler's own validation."""
    if rows is None:
        return []
    try:
        Jobs(MemoryStateStore()).submit(rows, Handler(_nothing) if handler is None else handler, key=key)
    except SubmissionError as error:
        return [{"path": "rows", "problem": one} for one in error.faults]
    except SourceError as error:
        return [{"path": "body", "problem": str(error)}]
    return []


def _nothing(payload: Any) -> None:
    """Stand for a handler that is not known."""


@contextmanager
def _file(body: bytes) -> Generator[Path]:
    with NamedTemporaryFile(prefix="holdfast-", suffix=".csv") as file:
        file.write(body)
        file.flush()
        yield Path(file.name)


def _source_of(path: Path, given: dict[str, str], faults: _Faults) -> Source | None:
    """Return the rows of a CSV file, None if it cannot be read so."""
    options: dict[str, Any] = {
        name: given[name] for name in ("key", "delimiter", "encoding") if given.get(name)
    }
    try:
        return _Body(CsvSource(path, **options))
    except ConfigurationError as error:
        faults += [{"path": f"query.{one.path}", "problem": one.problem} for one in error.faults]
    except SourceError as error:
        faults.append({"path": "body", "problem": str(error).replace(str(path), "body")})
    return None


def _parameters(model: type[BaseModel]) -> list[dict[str, Any]]:
    """Declare the fields of a model as parameters of the query."""
    schema = model.model_json_schema()
    needed = schema.get("required", [])
    return [
        {"name": name, "in": "query", "required": name in needed, "schema": _without_null(facts)}
        for name, facts in schema["properties"].items()
    ]


def _without_null(facts: dict[str, Any]) -> dict[str, Any]:
    kinds = [one for one in facts.get("anyOf", []) if one.get("type") != "null"]
    rest = {name: one for name, one in facts.items() if name != "anyOf" and one is not None}
    return {**rest, **kinds[0]} if len(kinds) == 1 else {**rest, "anyOf": kinds} if kinds else rest
