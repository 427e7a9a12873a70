"""Runs: graphs of orders, submitted once, evaluated event by event, finished once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from holdfast.infrastructure.resilience.randomness import current_random
from holdfast.infrastructure.store import payload
from holdfast.infrastructure.store.state import (
    JOB_ENDS,
    STEP_ENDS,
    JobState,
    NewJob,
    NewStep,
    NotFoundError,
    StepState,
    SubmissionError,
)
from holdfast.services.jobs._pages import all_jobs
from holdfast.services.jobs._runs import run_of, worker_of
from holdfast.services.jobs.errors import NotEndedError
from holdfast.services.jobs.graphs import _archive, _keys, _results
from holdfast.services.jobs.graphs._rounds import GROUP, Evaluator, run_status, work_of
from holdfast.services.jobs.graphs.delivery import read_delivery
from holdfast.services.jobs.graphs.request import RequestRefusedError, parse_request

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from holdfast.infrastructure.store.blob import BlobStore
    from holdfast.infrastructure.store.state import JobRecord, StateStore, StepRecord
    from holdfast.services.jobs.graphs.ports import CodeSource, ResultListener, RunNotifier, RunTimer, Target
    from holdfast.services.jobs.graphs.request import Order, RunRequest
    from holdfast.services.jobs.graphs.secrets import Secrets

HANDLER: str = "holdfast.graph"

# The steps of other jobs are left to their workers.
_SLACK = 86_400.0
_PAGE = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class RunAnswer:
    """What a submission is answered: `done_endpoint` is where the summary will be; `created` false: it was known.

    `flow_id` is `<user>:<trace>-<label>`; `comment` the text that people see, with `search_tag` in it.
    """

    run_id: str
    trace_id: str
    flow_id: str
    done_endpoint: str
    search_tag: str
    comment: str
    created: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderView:
    """How an order is. `reserved`: it waits for its target. Times are seconds on the store's clock."""

    name: str
    number: int
    state: StepState
    reserved: bool
    depends_on: tuple[str, ...]
    must_succeed: bool
    target: str
    error: str
    started_at: float | None
    finished_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """How a run is; `finished`: its summary is stored, and nothing changes any more."""

    run_id: str
    flow_id: str
    status: JobState
    finished: bool
    retry_of: str | None
    orders: tuple[OrderView, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """A run in a list: its state as the store has it, and how many of its orders are done."""

    run_id: str
    flow_id: str
    state: JobState
    done: int
    total: int
    created_at: float | None


class Verdict(StrEnum):
    """What a watchdog found."""

    DONE = "done"
    WAIT = "wait"
    TIMED_OUT = "timed_out"


class Runs:
    """Graphs of orders over a store, a blob store and targets. It keeps nothing: any process may do the next step.

    `limits`: how many orders of one run a target executes at once; `lease`: seconds that one evaluation may take before
    another takes over; `at_once`: orders that are handed to a target in parallel when it is slow,
    10 at most, in order with 1. `secrets` encrypts those of orders. Safe to share between threads.
    """

    def __init__(
        self,
        store: StateStore,
        blobs: BlobStore,
        targets: Mapping[str, Target],
        *,
        code: CodeSource,
        notifier: RunNotifier | None = None,
        timer: RunTimer | None = None,
        listener: ResultListener | None = None,
        limits: Mapping[str, int] | None = None,
        lease: float = 60.0,
        at_once: int = 10,
        secrets: Secrets | None = None,
    ) -> None:
        self._secrets = secrets
        self._at_once = min(max(at_once, 1), GROUP)
        self._store, self._blobs, self._targets, self._code = store, blobs, targets, code
        self._timer, self._listener = timer, listener
        self._evaluator = Evaluator(
            store=store,
            blobs=blobs,
            targets=targets,
            notifier=notifier,
            timer=timer,
            limits=dict(limits or {}),
            lease=lease,
            at_once=self._at_once,
        )

    def submit(self, body: object, *, delivery_id: str | None = None) -> RunAnswer:
        """Store a run and trigger it; the same delivery again returns the first answer.

        `delivery_id`: what the caller knows it by. RequestRefusedError: 400 and 405 as `read_delivery` and
        `parse_request`, 409 when another run has the id. SecretsError.
        """
        delivery = read_delivery(body, delivery_id=delivery_id)
        request = parse_request(delivery.document, targets=self._targets)
        digest = payload.digest(delivery.document)
        dedup_key = f"request:{digest}" if request.run_id else None
        if delivery.id is not None:
            dedup_key = f"delivery:{delivery.id}"
        run = request.run_id or _run_id(dedup_key)
        known = self._known(run, dedup_key)
        if known is not None:
            return self._answered(known, created=False)
        steps = self._pack(run, digest, request)
        return self._store_run(self._new_job(run, dedup_key, request), steps)

    def evaluate(self, run: str) -> bool:
        """Take the results that are there, and go on; False if somebody else does so, who sees them too. NotFoundError.

        An exception leaves the run as it is: call again.
        """
        return self._evaluator.evaluate(run)

    def receive(self, key: str, *more: str) -> bool:
        """Hear that results were stored under keys: evaluate their runs, once each; False if none of them is ours.

        A result of an unknown order changes nothing but leaves a note.
        """
        heard: dict[str, int] = {}
        for run, number in filter(None, map(_keys.read_result, (key, *more))):
            try:
                if run not in heard:
                    heard[run] = self._store.job(run).counts.total
            except NotFoundError:
                continue
            if number > heard[run]:
                told = {"result": _keys.result(run, number), "why": "unknown order"}
                self._store.note(run, "ignored", told)
        for run in heard:
            self.evaluate(run)
        return bool(heard)

    def deliver(self, run: str, order: str, result: bytes) -> bool:
        """Store the result of an order and evaluate; False: it has one already, and a note is left. NotFoundError."""
        step = self._store.step(run, order)
        key = _keys.result(run, step.position + 1)
        first = self._blobs.put(key, result)
        if not first and self._blobs.get(key) != result:
            self._store.note(run, "late", {"order": order})
        self.evaluate(run)
        return first

    def watchdog(self, run: str, number: int = 0) -> Verdict:
        """Look whether an order, or with 0 the run, is past its time, and end it then; evaluate. NotFoundError.

        The first result wins: `timed_out` is written only where there is none.
        """
        verdict, at = self._watch_order(run, number) if number else self._watch_run(run)
        if verdict is Verdict.WAIT and at is not None and self._timer is not None:
            self._timer.watch(run, number, at)
        if verdict is not Verdict.WAIT or not number:
            self.evaluate(run)
        return verdict

    def tick(self) -> list[str]:
        """Look after every run that is not finished, as its watchdogs would; return which these were."""
        found = all_jobs(self._store, set(JobState) - JOB_ENDS)
        runs = {job.id: None for job in found if job.new.handler == HANDLER}
        # Those that have ended, but whose orders have not.
        held = (run_of(worker.id) for worker in self._store.workers())
        runs.update({run: None for run in held if run is not None})
        return [run for run in runs if self._look_after(run)]

    def _look_after(self, run: str) -> bool:
        try:
            for step in list(self._evaluator.running(run)):
                self._watch_step(run, step)
            self.watchdog(run)
        except NotFoundError:
            # Somebody deleted it in the middle.
            self._store.retire(worker_of(run))
            return False
        return True

    def resume(self) -> list[str]:
        """Dispatch again what a target may have forgotten with its process, and tick; return the runs that go on."""
        runs = self.tick()
        self._dispatch_again(runs)
        return runs

    def _dispatch_again(self, runs: Iterable[str]) -> bool:
        """Hand over again what runs, as it seems; return whether there was room for all."""
        works = [work_of(run, step) for run in runs for step in self._evaluator.running(run) if step.begun]
        return sum(not self._evaluator.dispatch_again(work) for work in works) == 0

    def cancel(self, run: str, reason: str = "") -> RunView:
        """Cancel what has not started and end what runs. IllegalTransition when the run has ended, NotFoundError."""
        self._job(run)
        self._store.change_job(run, JobState.CANCELLED, reason=reason)
        self.evaluate(run)
        return self.status(run)

    def find(self, *, limit: int = 50) -> list[RunSummary]:
        """Return runs, newest first."""
        found: list[RunSummary] = []
        after: str | None = None
        while len(found) < limit and (page := self._store.jobs(after=after, limit=_PAGE)):
            found += [_summary(job) for job in page if job.new.handler == HANDLER]
            after = page[-1].id
            if len(page) < _PAGE:
                break
        return found[:limit]

    def retry(self, run: str, order: str, *, delivery_id: str | None = None) -> RunAnswer:
        """Run an order that has not succeeded again, with all that fell with it, as a new run. NotFoundError.

        What has ended stays as it is. NotEndedError; RequestRefusedError (409) if it succeeded or cannot start.
        """
        steps = self._ended_steps(run)
        if order not in steps:
            raise NotFoundError("order", f"{order} of run {run}", self._store.tenant)
        if steps[order].state is StepState.SUCCEEDED:
            raise RequestRefusedError(409, [f"order {order!r} has succeeded; there is nothing to retry"])
        chosen = {order}
        for key in _in_order(steps):
            if steps[key].state is not StepState.SUCCEEDED and chosen & set(steps[key].depends_on):
                chosen.add(key)
        return self._again(run, steps, chosen, delivery_id)

    def rerun(self, run: str, *, delivery_id: str | None = None) -> RunAnswer:
        """Run every order that has not succeeded again, as a new run. NotFoundError, NotEndedError.

        RequestRefusedError (409) if all have succeeded. `delivery_id` makes a repeated call return the first answer.
        """
        steps = self._ended_steps(run)
        chosen = {key for key, step in steps.items() if step.state is not StepState.SUCCEEDED}
        if not chosen:
            raise RequestRefusedError(
                409, [f"every order of run {run!r} has succeeded; there is nothing to rerun"]
            )
        return self._again(run, steps, chosen, delivery_id)

    def status(self, run: str) -> RunView:
        """Return how a run and its orders are. NotFoundError."""
        job = self._job(run)
        steps = list(self._evaluator.steps(run))
        return RunView(
            run_id=run,
            flow_id=job.new.settings["flow"],
            status=run_status(job, steps),
            finished=self._blobs.exists(_keys.done(run)),
            retry_of=job.new.retry_of,
            orders=tuple(map(_view, steps)),
        )

    def log(self, run: str, order: str) -> bytes:
        """Return the output of an order. NotFoundError, also before there is any."""
        return self._blobs.get(_keys.log(run, self._store.step(run, order).position + 1))

    def _job(self, run: str) -> JobRecord:
        try:
            job = self._store.job(run)
        except NotFoundError:
            raise NotFoundError("run", run, self._store.tenant) from None
        if job.new.handler != HANDLER:
            raise NotFoundError("run", run, self._store.tenant)
        return job

    def _known(self, run: str, dedup_key: str | None) -> JobRecord | None:
        try:
            job = self._store.job(run)
        except NotFoundError:
            return None
        if dedup_key is None or job.new.dedup_key != dedup_key:
            raise _taken(run)
        return job

    def _pack(self, run: str, digest: str, request: RunRequest) -> list[NewStep]:
        """Store the archive of each order, or raise with all faults."""
        files = self._files(request)
        archives = [_keys.archive(run, digest, number) for number in range(1, len(request.orders) + 1)]

        def store(one: tuple[Order, str]) -> None:
            order, key = one
            if not self._blobs.exists(key):
                sealed = self._secrets.seal(order.secrets) if self._secrets and order.secrets else b""
                self._blobs.put(key, _archive.pack(order, files[order.code or request.repository], sealed))

        works = zip(request.orders, archives, strict=True)
        if self._at_once == 1 or len(archives) == 1:
            for one in works:
                store(one)
        else:
            # What each waits for is a disk or a network.
            with ThreadPoolExecutor(self._at_once, "holdfast-archive") as pool:
                list(pool.map(store, works))
        numbered = enumerate(zip(request.orders, archives, strict=True), 1)
        return [_new_step(order, number, key) for number, (order, key) in numbered]

    def _files(self, request: RunRequest) -> dict[str, Mapping[str, tuple[bytes, int]]]:
        found: dict[str, Mapping[str, tuple[bytes, int]]] = {}
        faults = [
            f"order {order.name!r} has secrets, and nothing here encrypts them; give Runs `secrets`, or the command "
            "--age-recipient"
            for order in request.orders
            if order.secrets and self._secrets is None
        ]
        for location in dict.fromkeys(order.code or request.repository for order in request.orders):
            try:
                found[location] = self._code.files(location)
            except ValueError as error:
                faults.append(f"code source {location!r}: {error}")
        if faults:
            raise RequestRefusedError(400, faults)
        return found

    def _new_job(self, run: str, dedup_key: str | None, request: RunRequest) -> NewJob:
        trace = request.trace_id or sha256(run.encode()).hexdigest()[:16]
        flow = f"{request.user}:{trace}-{request.label}"
        settings: dict[str, Any] = {
            "user": request.user,
            "label": request.label,
            "trace": trace,
            "flow": flow,
            "tag": request.search_tag or f"holdfast {flow}",
            "repository": request.repository,
            "token_location": request.token_location,
            "pull_request": request.pull_request,
            "issue": request.issue,
            "presign_expiry": request.presign_expiry,
        }
        return NewJob(
            id=run,
            handler=HANDLER,
            name=flow,
            dedup_key=dedup_key,
            # A second dispatch of an order starts nothing.
            idempotent=True,
            whole=True,
            job_timeout=request.job_timeout,
            settings=settings,
        )

    def _store_run(self, new: NewJob, steps: Sequence[NewStep]) -> RunAnswer:
        try:
            job, created = self._store.create_job(new, steps)
        except SubmissionError:
            known = self._known(new.id, new.dedup_key)
            if known is None:
                raise
            job, created = known, False
        return self._answered(job, created=created)

    def _answered(self, job: JobRecord, *, created: bool) -> RunAnswer:
        """Answer, and do what a crash may have left undone: tell, watch and trigger."""
        steps = list(self._evaluator.steps(job.id))
        trigger, settings = _keys.result(job.id, 0), job.new.settings
        if not self._blobs.exists(trigger):
            self._evaluator.tell(job, steps)
            self._evaluator.enlist(job)
            if self._timer is not None:
                self._timer.watch(job.id, 0, self._store.now() + (job.new.job_timeout or 0.0))
            self._blobs.put(trigger, b'{"status": "submitted"}')
            if self._listener is not None:
                self._listener.stored(trigger)
        done = _keys.done(job.id)
        return RunAnswer(
            run_id=job.id,
            trace_id=settings["trace"],
            flow_id=settings["flow"],
            done_endpoint=self._blobs.presign(done, settings["presign_expiry"]) or done,
            search_tag=settings["tag"],
            comment=self._evaluator.comment(job, steps).body,
            created=created,
        )

    def _watch_order(self, run: str, number: int) -> tuple[Verdict, float | None]:
        found = self._store.steps(run, after=number - 2, limit=1)
        if not found or found[0].position != number - 1:
            raise NotFoundError("order", f"{number} of run {run}", self._store.tenant)
        return self._watch_step(run, found[0])

    def _watch_step(self, run: str, step: StepRecord) -> tuple[Verdict, float | None]:
        """End an order that is past its time; return what was found, and when it will be."""
        work = work_of(run, step)
        if step.state in STEP_ENDS or self._blobs.exists(work.result):
            return Verdict.DONE, None
        at = None if step.started_at is None else step.started_at + work.timeout
        if at is None or self._store.now() < at:
            return Verdict.WAIT, at
        error = f"no result {work.timeout:g} s after its start"
        if not self._blobs.put(work.result, _results.write(StepState.TIMED_OUT, error=error)):
            return Verdict.DONE, None
        self._evaluator.cancel(work)
        return Verdict.TIMED_OUT, None

    def _watch_run(self, run: str) -> tuple[Verdict, float | None]:
        job = self._job(run)
        if job.state in JOB_ENDS:
            return Verdict.DONE, None
        limit = job.new.job_timeout
        at = None if limit is None or job.started_at is None else job.started_at + limit
        if at is None or self._store.now() < at:
            return Verdict.WAIT, at
        works = [work_of(run, step) for step in self._evaluator.running(run) if step.begun]
        self._store.sweep(slack=_SLACK)
        for work in works:
            self._evaluator.cancel(work)
        return Verdict.TIMED_OUT, None

    def _ended_steps(self, run: str) -> dict[str, StepRecord]:
        job = self._job(run)
        if job.state not in JOB_ENDS or job.counts.running:
            raise NotEndedError(run, job.state)
        return {step.key: step for step in self._evaluator.steps(run)}

    def _again(
        self, run: str, steps: Mapping[str, StepRecord], chosen: set[str], delivery_id: str | None
    ) -> RunAnswer:
        """Submit some orders of an ended run as a new one; what they waited for has been done."""
        faults = [
            f"order {key!r} depends on {one!r}, which has not succeeded; rerun the run"
            for key in chosen
            for one in steps[key].depends_on
            if one not in chosen and steps[one].must_succeed and steps[one].state is not StepState.SUCCEEDED
        ]
        if faults:
            raise RequestRefusedError(409, faults)
        old = self._store.job(run)
        dedup_key = None if delivery_id is None else f"again:{run}:{delivery_id}"
        new = NewJob(
            id=_run_id(dedup_key),
            handler=HANDLER,
            name=old.new.name,
            dedup_key=dedup_key,
            idempotent=True,
            whole=True,
            job_timeout=old.new.job_timeout,
            retry_of=run,
            settings=old.new.settings,
        )
        again = [
            NewStep(
                key=step.key,
                payload=step.payload,
                line=step.line,
                depends_on=tuple(one for one in step.depends_on if one in chosen),
                must_succeed=step.must_succeed,
                target=step.target,
            )
            for step in steps.values()
            if step.key in chosen
        ]
        return self._store_run(new, again)


def _new_step(order: Order, number: int, archive: str) -> NewStep:
    """Return an order as a step; its timeout is the watchdog's, so that the first result wins."""
    return NewStep(
        key=order.name,
        payload=payload.encode({"timeout": order.timeout, "archive": archive}),
        line=number,
        depends_on=order.depends_on,
        must_succeed=order.must_succeed,
        target=order.target,
    )


def _summary(job: JobRecord) -> RunSummary:
    return RunSummary(
        run_id=job.id,
        flow_id=job.new.settings["flow"],
        state=job.state,
        done=job.counts.done,
        total=job.counts.total,
        created_at=job.created_at,
    )


def _run_id(dedup_key: str | None) -> str:
    """Return a new id; the same for the same delivery, so that two who receive it at once agree."""
    if dedup_key is None:
        return f"{current_random().getrandbits(128):032x}"
    return sha256(dedup_key.encode()).hexdigest()[:32]


def _taken(run: str) -> RequestRefusedError:
    return RequestRefusedError(409, [f"run {run!r} exists already; give another run_id, or none"])


def _in_order(steps: Mapping[str, StepRecord]) -> Iterable[str]:
    """Return keys so that each comes after what it depends on."""
    from graphlib import TopologicalSorter

    return TopologicalSorter({key: step.depends_on for key, step in steps.items()}).static_order()


def _view(step: StepRecord) -> OrderView:
    return OrderView(
        name=step.key,
        number=step.position + 1,
        state=step.state,
        reserved=step.state is StepState.RUNNING and not step.begun,
        depends_on=step.depends_on,
        must_succeed=step.must_succeed,
        target=step.target,
        error=step.error,
        started_at=step.started_at,
        finished_at=step.finished_at,
    )
