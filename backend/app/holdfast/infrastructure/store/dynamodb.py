"""Jobs in Amazon DynamoDB (extra `aws`): one table for all tenants, with what is large in a blob store.

How they lie there, `_dynamo_table` says.
"""

from __future__ import annotations

from collections import OrderedDict
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import islice
from math import inf
from threading import Event, RLock, local
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

from holdfast.infrastructure.resilience.clock import SYSTEM
from holdfast.infrastructure.resilience.randomness import current_random
from holdfast.infrastructure.store import _aws
from holdfast.infrastructure.store import _decide as decide
from holdfast.infrastructure.store import _dynamo_rows as rows
from holdfast.infrastructure.store import _submission as submission
from holdfast.infrastructure.store._dynamo_job import (
    MOST_RETRIES,
    DynamoJob,
    Fixed,
    empty_head,
    fixed,
    record_of,
)
from holdfast.infrastructure.store._dynamo_table import (
    MOST_ACTIONS,
    Action,
    ConditionFailedError,
    Table,
    TooLargeError,
    number,
    pause,
)
from holdfast.infrastructure.store._tenants import checked_tenant
from holdfast.infrastructure.store.memory import MemoryStateStore, _checked, _chosen, _copied
from holdfast.infrastructure.store.state import (
    JOB_ENDS,
    Advanced,
    BatchRecord,
    IllegalTransition,
    JobState,
    LeaseLostError,
    Lock,
    NotFoundError,
    Recovered,
    StoreError,
    StoreUnavailableError,
    SubmissionError,
    Swept,
    TenantNotFoundError,
    WorkerRecord,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
    from types import TracebackType

    from holdfast.infrastructure.resilience.clock import Clock
    from holdfast.infrastructure.resilience.retry import Retry
    from holdfast.infrastructure.store._dynamo_table import Item, Key
    from holdfast.infrastructure.store.blob import BlobStore
    from holdfast.infrastructure.store.state import (
        JobEvent,
        JobRecord,
        NewJob,
        NewStep,
        OutboxEntry,
        OutboxState,
        Outcome,
        StepRecord,
        StepRef,
        StepState,
    )

__all__ = ["DynamoStateStore", "TooLargeError", "UnsupportedError", "create_table", "open_dynamodb"]

_T = TypeVar("_T")
_TRIES = 100
_KEPT = 32
_LONGEST_NAME = 500
_ACTIVE = frozenset(JobState) - JOB_ENDS
_LIVES = "attribute_exists(p) AND attribute_not_exists(#gone) AND #ends > :at"
_HELD = "#owner = :owner AND #fence = :fence AND #ends > :at"
_SHAPE: Mapping[str, Any] = {
    "KeySchema": [
        {"AttributeName": "p", "KeyType": "HASH"},
        {"AttributeName": "s", "KeyType": "RANGE"},
    ],
    "AttributeDefinitions": [
        {"AttributeName": "p", "AttributeType": "S"},
        {"AttributeName": "s", "AttributeType": "S"},
    ],
    "BillingMode": "PAY_PER_REQUEST",
}


def create_table(name: str, *, client: Any = None) -> None:
    """Create a table for stores, unless there is one of this name, and wait until it can be used."""
    made = _aws.client("dynamodb") if client is None else client
    try:
        made.create_table(TableName=name, **_SHAPE)
    except Exception as error:
        if _aws.error_code(error) != "ResourceInUseException":
            raise
    made.get_waiter("table_exists").wait(TableName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 120})


def open_dynamodb(
    url: str, *, tenant: str = "default", create: bool = False, clock: Clock | None = None
) -> DynamoStateStore:
    """Open a tenant's jobs: `dynamodb://TABLE?region=R&endpoint=URL&bucket=B&prefix=P&frugal=true`, or less than that.

    Without `region` the environment's is taken; with `bucket`, what is large lies there below `prefix`. The tenant
    "default" is created when it is missing, others with `create`: TenantNotFoundError. The table must be there.
    """
    parts = urlsplit(url)
    if parts.scheme != "dynamodb" or not parts.netloc:
        raise ValueError(
            f"{url!r} names no table; give dynamodb://TABLE, with ?region=… and ?bucket=… if need be"
        )
    said = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
    region, endpoint = said.pop("region", None), said.pop("endpoint", None)
    bucket, prefix = said.pop("bucket", None), said.pop("prefix", "")
    frugal = said.pop("frugal", "false")
    if said or frugal not in {"true", "false"}:
        raise ValueError(f"{url!r}: a table takes region, endpoint, bucket, prefix, and frugal=true or false")
    blobs: BlobStore | None = None
    if bucket is not None:
        from holdfast.infrastructure.store.s3 import S3BlobStore

        blobs = S3BlobStore(bucket, tenant, prefix=prefix, client=_aws.client("s3", region, endpoint))
    store = DynamoStateStore(
        parts.netloc,
        tenant,
        blobs=blobs,
        client=_aws.client("dynamodb", region, endpoint),
        clock=clock,
        frugal=frugal == "true",
    )
    if tenant != "default" and not create and not store.exists():
        raise TenantNotFoundError(tenant)
    if tenant == "default" or create:
        store.create()
    return store


class UnsupportedError(StoreError):
    """This store cannot do that: `what`, and the `remedy`; nothing has changed."""

    what: str
    remedy: str

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what, remedy)
        self.what, self.remedy = what, remedy

    def __str__(self) -> str:
        """Say what, and what to do."""
        return f"DynamoDB has no {self.what.removeprefix('a ')}; {self.remedy}"


class _TooManyError(Exception):
    """A change touches more items than a transaction may."""


class _Work(MemoryStateStore):
    """The reference's rules over the jobs that one change is about, at one time."""

    def __init__(
        self, tenant: str, at: float, jobs: Mapping[str, DynamoJob], workers: Mapping[str, WorkerRecord]
    ) -> None:
        super().__init__(tenant)
        self._at = at
        self._jobs.update(jobs)
        self._workers.update(workers)

    def _now(self) -> float:
        return self._at


class _Round:
    """Between two looks at a lock, by one thread; it goes on if nobody has held the lock since that gave it back.

    `untouched`: the lock, if nobody had marked it when it was taken.
    """

    __slots__ = ("until", "untouched")

    def __init__(self, until: float, untouched: Lock | None) -> None:
        self.until, self.untouched = until, untouched


class _Slot:
    """What this process knows of a job, and since when; its lock is held while somebody works with it."""

    __slots__ = ("fixed", "groups", "job", "lock", "since")

    def __init__(self) -> None:
        self.lock = RLock()
        self.forget()

    def forget(self) -> None:
        """Know nothing."""
        self.job: DynamoJob | None = None
        self.since: _Round | None = None
        self.fixed: Fixed | None = None
        self.groups: dict[int, tuple[int, bytes]] = {}


class DynamoStateStore:
    """One tenant's jobs in a table of DynamoDB. Threads may share it, processes the table.

    `blobs` takes what has more than 350 KB, without it that is refused (TooLargeError). `client` is boto3's; `retry`
    replaces six attempts under the AWS SDKs' budget. A job has 10,000 steps at most. Time is the machines'. What is of
    several jobs is a transaction for each; whoever calls again goes on. `poll`: seconds between looks of `wait`.
    `frugal`, to evaluate runs: a thread with a lock reads a job once, again after `clear_dirty`, and not at all if the
    lock was its last; who changes a job without the lock takes it then.
    """

    tenant: str

    def __init__(
        self,
        table: str,
        tenant: str = "default",
        *,
        blobs: BlobStore | None = None,
        client: Any = None,
        clock: Clock | None = None,
        retry: Retry | None = None,
        poll: float = 0.5,
        frugal: bool = False,
    ) -> None:
        self.tenant = checked_tenant(tenant)
        self._table = Table(_aws.client("dynamodb") if client is None else client, table, retry)
        self._blobs, self._poll, self._frugal = blobs, poll, frugal
        self._clock = SYSTEM if clock is None else clock
        self._latest = -inf
        self._mutex = RLock()
        self._slots: OrderedDict[str, _Slot] = OrderedDict()
        self._leases: dict[str, WorkerRecord] = {}
        self._seen = local()
        self._round = local()

    def __enter__(self) -> DynamoStateStore:
        """Close it at the end of a `with` block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    def exists(self) -> bool:
        """Return whether the tenant was created."""
        return self._table.get(("/tenants", self.tenant)) is not None

    def create(self) -> None:
        """Create the tenant; creating it again does nothing."""
        self._table.put({"p": "/tenants", "s": self.tenant})

    def now(self) -> float:
        """Return seconds since the epoch on this machine's clock; it never goes back."""
        with self._mutex:
            self._latest = max(self._latest, self._clock.time())
            return self._latest

    def close(self) -> None:
        """Forget what is known of jobs; calling it again does nothing."""
        with self._mutex:
            self._slots.clear()

    # Jobs.

    def create_job(self, job: NewJob, steps: Iterable[NewStep]) -> tuple[JobRecord, bool]:
        """Store a job and all its steps, or nothing; whether it is new: a known `dedup_key` returns the first job."""
        known = self._duplicate(job)
        if known is not None:
            return known, False
        faults, made = _checked(_limited(steps))
        job = replace(job, settings=_copied(job.settings))
        for tries in range(_TRIES):
            known = self._duplicate(job)
            if known is not None:
                return known, False
            self._check(job, faults)
            try:
                return self._insert(job, made), True
            except ConditionFailedError:
                pause(tries)
        raise self._table.busy()

    def job(self, job: str) -> JobRecord:
        """Return a job. NotFoundError."""
        if self._this_round() is not None:
            return self._reading(job, lambda found: found.record)
        return record_of(self._said(self._head(job)))

    def jobs(
        self,
        *,
        states: Iterable[JobState] = (),
        batch: str | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> list[JobRecord]:
        """Return jobs, newest first, from the one after the job `after` on; all states when none is named."""
        wanted = frozenset(states)
        before = None if after is None else _digits(int(self._head(after)["num"]))
        found: list[JobRecord] = []
        ids = self._ids(batch, before, only_open=bool(wanted) and wanted <= _ACTIVE)
        while len(found) < limit and (page := list(islice(ids, 100))):
            keys = [self._key(job) for job in page]
            heads = self._table.get_all(keys)
            records = (record_of(self._said(heads[key])) for key in keys if key in heads)
            found += [record for record in records if not wanted or record.state in wanted]
        return found[:limit]

    def step(self, job: str, key: str) -> StepRecord:
        """Return a step by its key. NotFoundError."""

        def read(found: DynamoJob) -> StepRecord:
            if key not in found.positions:
                raise NotFoundError("step", f"{key} of job {job}", self.tenant)
            return found.steps[found.positions[key]]

        return self._whole(job, [self._reading(job, read)])[0]

    def steps(
        self,
        job: str,
        *,
        states: Iterable[StepState] = (),
        worker: str | None = None,
        after: int = -1,
        limit: int = 1000,
    ) -> list[StepRecord]:
        """Return steps in order, from the position after `after` on; strongly consistent. NotFoundError.

        With `worker`, those that it holds, which SQL stores find by an index.
        """
        wanted = frozenset(states)

        def read(found: DynamoJob) -> list[StepRecord]:
            rest = islice(found.steps, after + 1, None)
            return list(islice((step for step in rest if _chosen(step, wanted, worker)), limit))

        return self._whole(job, self._reading(job, read))

    def events(
        self, job: str, *, after: int = 0, limit: int = 1000, kinds: Collection[str] = ()
    ) -> list[JobEvent]:
        """Return a job's history after event number `after`, of all kinds when none is named. NotFoundError."""
        prefix = _digits(int(self._head(job)["num"]))
        items = self._table.query(
            self._key(job)[0], first=f"{prefix}/e{_digits(after + 1)}", last=f"{prefix}/e~"
        )
        events = (
            rows.event_of(job, said)
            for item in items
            for said in rows.unpack_exact(self._opened(job, item))
            if said[0] > after and (not kinds or said[2] in kinds)
        )
        return list(islice(events, limit))

    def note(self, job: str, state: str, data: Mapping[str, Any]) -> JobEvent:
        """Append an event of kind "note" to a job's history."""
        return self._change(job, lambda work: work.note(job, state, data))

    def change_job(
        self,
        job: str,
        to: JobState,
        *,
        reason: str = "",
        version: int | None = None,
    ) -> JobRecord:
        """Move a job: to paused, back to pending, cancelled, or to an end that a program decides."""
        return self._change(job, lambda work: work.change_job(job, to, reason=reason, version=version))

    def preview_job(self, job: str, digest: str, preview: Mapping[str, Any]) -> JobRecord:
        """Keep a preview and the digest of what was previewed; the job becomes previewed. IllegalTransition."""
        return self._change(job, lambda work: work.preview_job(job, digest, preview))

    def approve_job(self, job: str, digest: str) -> JobRecord:
        """Let a previewed job run. ConflictError when `digest` is not the preview's, IllegalTransition."""
        return self._change(job, lambda work: work.approve_job(job, digest))

    def delete_job(self, job: str) -> None:
        """Remove a job that has ended, with steps, events and outbox. IllegalTransition while it is active."""
        for tries in range(_TRIES):
            head = self._head(job)
            record = record_of(self._said(head))
            if record.state not in JOB_ENDS:
                raise IllegalTransition(f"job {job!r}", record.state, "deleted")
            place = _digits(int(head["num"]))
            gone = [(self._p("jobs"), place), (self._p("open"), _rank(record.new.priority, place))]
            if record.new.dedup_key is not None:
                gone.append((self._p("dedup", record.new.dedup_key), "head"))
            if record.new.batch is not None:
                gone.append((self._p("batch", record.new.batch), f"j{place}"))
            removed = Action.delete(
                self._key(job), "head", when="#rev = :rev AND #num = :num", **_stamp(head)
            )
            try:
                self._table.transact([removed, *map(Action.delete, gone)], _mark())
            except ConditionFailedError:
                pause(tries)
                continue
            self._slot(job).forget()
            self._clear(job, place)
            return
        raise self._table.busy()

    def set_concurrency(self, most: int | None) -> None:
        """Accept None, no limit; UnsupportedError for a number: what all jobs do at once is counted nowhere here."""
        decide.check_concurrency(most)
        if most is not None:
            raise UnsupportedError(
                "a bound on the calls of all jobs together", "bound each job, or take PostgreSQL"
            )

    def concurrency(self) -> int | None:
        """Return None: any number of calls of this tenant may be under way at once."""
        return None

    # Batches.

    def create_batch(self, batch: str, name: str = "") -> BatchRecord:
        """Store a batch, or return the one of this id. SubmissionError for an id that no database can store."""
        if not submission.storable(batch):
            raise SubmissionError([submission.unfit("batch", batch)])
        head = {**self._item(self._p("batch", batch), "head"), "b": rows.pack_exact([name, self.now()])}
        try:
            self._table.transact([Action.put(head, "head", when="attribute_not_exists(p)")], _mark())
        except ConditionFailedError:
            pass
        return self.batch(batch)

    def batch(self, batch: str) -> BatchRecord:
        """Return a batch. NotFoundError."""
        items = list(self._table.query(self._p("batch", batch)))
        heads = [item for item in items if item["s"] == "head"]
        if not heads:
            raise NotFoundError("batch", batch, self.tenant)
        states: dict[JobState, int] = {}
        for item in items:
            if item["s"] != "head":
                states[JobState(item["state"])] = states.get(JobState(item["state"]), 0) + 1
        name, created_at = rows.unpack_exact(heads[0]["b"])
        return BatchRecord(
            id=batch,
            name=name,
            state=decide.batch_state(states, cancelled="cancelled" in heads[0]),
            total=sum(states.values()),
            done=sum(count for state, count in states.items() if state in JOB_ENDS),
            created_at=created_at,
        )

    def cancel_batch(self, batch: str) -> BatchRecord:
        """Cancel every job of a batch that has not ended; cancelled sticks. First it takes no more jobs."""
        decide.check_cancel(batch, self.batch(batch).state)
        self._table.update((self._p("batch", batch), "head"), "SET #cancelled = :yes", {":yes": True})
        for item in list(self._table.query(self._p("batch", batch), first="j")):
            if JobState(item["state"]) not in JOB_ENDS:
                self._run([item["job"]], partial(_cancel, job=item["job"]))
        return self.batch(batch)

    # Workers.

    def register(self, worker: WorkerRecord, lease: float) -> WorkerRecord:
        """Begin a worker's lease of `lease` seconds; claims need one."""
        self._take({worker.id}, None)
        made = replace(worker, expires_at=self.now() + lease)
        self._table.put(
            {
                **self._item(self._p("workers"), _name(worker.id)),
                "ends": number(made.expires_at),
                "b": rows.pack([made.id, made.host, made.pid, made.born]),
            }
        )
        self._leases[worker.id] = made
        return made

    def renew(self, worker: str, lease: float) -> WorkerRecord:
        """Prolong a lease from now on. LeaseLostError when it has ended."""
        at = self.now()
        known = self._leases.get(worker)
        if known is not None and self._this_round() is not None and known.expires_at - at > lease / 2:
            return known
        values = {":at": number(at), ":ends": number(at + lease)}
        try:
            item = self._table.update(self._desk(worker), "SET #ends = :ends", values, when=_LIVES)
        except ConditionFailedError:
            self._leases.pop(worker, None)
            raise LeaseLostError(worker) from None
        self._leases[worker] = _worker(item)
        return self._leases[worker]

    def retire(self, worker: str) -> Recovered:
        """End a worker's lease and hand back what it holds: what has not begun consumes no attempt."""
        return self._take({worker}, None)

    def workers(self) -> list[WorkerRecord]:
        """Return those with a lease, whether or not it has ended, until they are recovered."""
        return sorted(map(_worker, self._table.query(self._p("workers"))), key=lambda one: one.id)

    def recover(self, gone: Iterable[str] = (), limit: int = 1000) -> Recovered:
        """Take steps from workers whose lease has ended, and from those `gone`, seen dead by the caller."""
        dead, at = set(gone), self.now()
        ended = {one.id for one in self.workers() if one.id in dead or one.expires_at <= at}
        return self._take(ended, limit)

    # Steps.

    def claim(
        self,
        worker: str,
        limit: int,
        *,
        job: str | None = None,
        handlers: Collection[str] = (),
        skip: Collection[str] = (),
    ) -> list[StepRecord]:
        """Lease up to `limit` steps that may run: jobs by priority, then age; steps in order. LeaseLostError."""
        named = [] if job is None else [job]
        if job is None:
            self._check_lease(worker)
            named = [
                entry["job"]
                for entry in self._open()
                if entry["free"]
                and entry["job"] not in skip
                and (not handlers or entry["handler"] in handlers)
            ]
        claimed: list[StepRecord] = []
        for one in named:
            free = limit - len(claimed)
            if free <= 0 and claimed:
                break

            def claim(work: _Work, one: str = one, free: int = free) -> list[StepRecord]:
                return work.claim(worker, free, job=one, handlers=handlers, skip=skip)

            claimed += self._whole(one, self._run([one], claim, worker))
        return claimed

    def advance(
        self, worker: str, outcomes: Sequence[Outcome] = (), begin: Sequence[StepRef] = ()
    ) -> Advanced:
        """Record how calls ended, and let others begin, in one commit: when it returns, their intent is durable."""
        jobs = dict.fromkeys(ref.job for ref in (*(outcome.ref for outcome in outcomes), *begin))
        try:
            return self._run(jobs, lambda work: work.advance(worker, outcomes, begin), worker)
        except _TooManyError:
            return _joined(self._advance_one(worker, job, outcomes, begin) for job in jobs)

    def release(self, worker: str, refs: Sequence[StepRef]) -> None:
        """Hand back claimed steps that have not begun; no attempt is consumed."""
        self._run_all([ref.job for ref in refs], lambda work: work.release(worker, refs), worker)

    def resolve(
        self,
        job: str,
        key: str,
        to: StepState,
        *,
        result: bytes | None = None,
        error: str = "",
        by: str = "",
    ) -> StepRecord:
        """Decide about a step that needs review: succeeded, failed, or pending to run it again. IllegalTransition."""

        def act(work: _Work) -> StepRecord:
            return work.resolve(job, key, to, result=result, error=error, by=by)

        return self._whole(job, [self._change(job, act)])[0]

    def skip(self, job: str, keys: Iterable[str], *, reason: str = "", by: str = "") -> JobRecord:
        """Skip pending steps, all or none, and return the job. NotFoundError, IllegalTransition."""
        wanted = list(dict.fromkeys(keys))
        return self._change(job, lambda work: work.skip(job, wanted, reason=reason, by=by))

    def sweep(self, limit: int = 1000, *, slack: float = 0.0) -> Swept:
        """End what is past its limit, whoever holds it: expired jobs, timed-out jobs and steps. Fences rise."""
        at = self.now()
        due = [entry for entry in self._open() if entry["limit"] is not None and entry["limit"] <= at]
        jobs: dict[str, JobState] = {}
        steps: list[StepRef] = []
        late = 0
        for entry in sorted(due, key=lambda entry: entry["num"]):
            if len(jobs) >= limit and late >= limit:
                break

            def act(
                work: _Work,
                job: str = entry["job"],
                left: tuple[int, int] = (limit - len(jobs), limit - late),
            ) -> Swept:
                found = work._jobs.get(job)
                room = 0 if found is None else left[0] if found.overdue(work.now()) else left[1]
                return work.sweep(room, slack=slack) if room > 0 else Swept()

            swept = self._run([entry["job"]], act)
            jobs.update(swept.jobs)
            steps += swept.steps
            late += 0 if swept.jobs else len(swept.steps)
        return Swept(jobs=jobs, steps=tuple(steps))

    def next_due(self) -> float | None:
        """Return when the next retry, expiry or timeout is due, on the store's clock; None: nothing waits."""
        at = self.now()
        return min((due for entry in self._open() for due in self._due(entry, at)), default=None)

    def wait(self, timeout: float) -> bool:
        """Block until there may be new work or a change, `timeout` seconds at most; it looks every `poll` seconds."""
        end = self._clock.monotonic() + timeout
        while True:
            seen, now = getattr(self._seen, "told", None), self._told()
            self._seen.told = now
            if seen != now:
                return True
            left = end - self._clock.monotonic()
            if left <= 0:
                return False
            self._clock.wait(Event(), min(left, self._poll))

    def outbox(self, job: str, *, states: Iterable[OutboxState] = (), limit: int = 1000) -> list[OutboxEntry]:
        """Return results on their way back, in order; those that are due first."""
        found = self._reading(
            job, lambda one: self._work({job: one}, {}, self.now()).outbox(job, states=states, limit=limit)
        )
        values = self._values(job, [one.result for one in found])
        return [replace(one, result=values[one.result]) if _apart(one.result) else one for one in found]

    def owing(self) -> list[str]:
        """Return the jobs, ended or not, that have results waiting to be written back."""
        return [entry["job"] for entry in sorted(self._open(), key=lambda one: one["num"]) if entry["owes"]]

    def settle_outbox(self, entries: Sequence[OutboxEntry]) -> None:
        """Record what became of write-backs: state, attempts, due_at and error of each."""
        self._run_all([entry.job for entry in entries], lambda work: work.settle_outbox(entries))

    # Locks.

    def acquire(self, name: str, owner: str, lease: float) -> Lock | None:
        """Take a lock for `lease` seconds, or prolong one's own; None while another holds it.

        An owner that registered here as a worker has it as long as its own lease at most.
        """
        key, at = (self._p("lock", name), "head"), self.now()
        values = {":owner": owner, ":at": number(at), ":ends": number(at + lease)}
        if owner in self._leases:
            # First, so that a crash between leaves no lock that outlives its worker.
            self._note_lock(owner, name)
        try:
            item = self._table.update(
                key,
                "SET #owner = :owner, #ends = :ends, #fence = if_not_exists(#fence, :none) + :one",
                {**values, ":none": 0, ":one": 1},
                when="attribute_not_exists(#ends) OR #ends <= :at",
            )
        except ConditionFailedError:
            try:
                item = self._table.update(
                    key, "SET #ends = :ends", values, when="#owner = :owner AND #ends > :at"
                )
            except ConditionFailedError:
                return None
        lock = _lock(name, item)
        self._begin_round(lock, dirty=bool(item.get("dirty", False)))
        return lock

    def lock(self, name: str) -> Lock | None:
        """Return a lock as somebody holds it now, None if nobody does."""
        item = self._table.get((self._p("lock", name), "head"))
        if item is None or float(item.get("ends", 0)) <= self.now():
            return None
        return _lock(name, item)

    def holds(self, lock: Lock) -> bool:
        """Return whether this very lock is still held."""
        held = self.lock(lock.name)
        return held is not None and (held.owner, held.fence) == (lock.owner, lock.fence)

    def unlock(self, lock: Lock) -> bool:
        """Give a lock back; False, and nothing, when it is no longer this one's or it was marked dirty meanwhile."""
        when = f"{_HELD} AND (attribute_not_exists(#dirty) OR #dirty = :no)"
        try:
            self._table.update(
                (self._p("lock", lock.name), "head"),
                "SET #ends = :over",
                {**self._holder(lock), ":over": 0, ":no": False},
                when=when,
            )
        except ConditionFailedError:
            return False
        self._leave_round(lock)
        return True

    def mark_dirty(self, name: str) -> None:
        """Say that there is something new for the holder of a lock."""
        self._table.update((self._p("lock", name), "head"), "SET #dirty = :yes", {":yes": True})

    def clear_dirty(self, lock: Lock) -> bool:
        """Take the mark away; return whether there was one. LeaseLostError when the lock is lost."""
        was = self._this_round()
        if was is not None and was.untouched == lock:
            # A mark that came since is seen when the lock is to be given back.
            was.untouched = None
            return False
        self._begin_round(lock)
        try:
            before = self._table.update(
                (self._p("lock", lock.name), "head"),
                "SET #dirty = :no",
                {**self._holder(lock), ":no": False},
                when=_HELD,
                old=True,
            )
        except ConditionFailedError:
            self._round.now = None
            raise LeaseLostError(lock.owner) from None
        return bool(before.get("dirty", False))

    def _begin_round(self, lock: Lock, *, dirty: bool = True) -> None:
        """Read jobs anew from now on, once, if this thread is to be frugal; not those that nobody can have changed."""
        if not self._frugal:
            return
        name, fence, left = getattr(self._round, "left", None) or ("", 0, None)
        self._round.left = None
        if left is not None and not dirty and (name, fence + 1) == (lock.name, lock.fence):
            left.until, left.untouched = lock.expires_at, lock
            self._round.now = left
        else:
            self._round.now = _Round(lock.expires_at, None if dirty else lock)

    def _leave_round(self, lock: Lock) -> None:
        """Keep what is known of jobs, if this thread takes the lock next; those that have ended may be deleted."""
        found, self._round.now = self._this_round(), None
        self._round.left = None if found is None else (lock.name, lock.fence, found)
        with self._mutex:
            for slot in self._slots.values():
                if slot.since is found and slot.job is not None and slot.job.state in JOB_ENDS:
                    slot.since = None

    def _this_round(self) -> _Round | None:
        """Return what this thread has begun, while it holds the lock; None if it reads each time."""
        found: _Round | None = getattr(self._round, "now", None)
        return found if found is not None and self.now() < found.until else None

    def _holder(self, lock: Lock) -> dict[str, Any]:
        return {":owner": lock.owner, ":fence": lock.fence, ":at": number(self.now())}

    def _note_lock(self, worker: str, name: str) -> None:
        try:
            self._table.update(
                self._desk(worker),
                "ADD #locks :name",
                {":name": frozenset([name])},
                when="attribute_exists(p)",
            )
        except ConditionFailedError:
            self._leases.pop(worker, None)

    # Where things lie.

    def _p(self, kind: str, name: str | None = None) -> str:
        return f"{self.tenant}/{kind}" if name is None else f"{self.tenant}/{kind}/{_name(name)}"

    def _key(self, job: str) -> Key:
        return self._p("job", job), "head"

    def _desk(self, worker: str) -> Key:
        return self._p("workers"), _name(worker)

    def _item(self, p: str, s: str) -> Item:
        return {"p": p, "s": s}

    def _head(self, job: str) -> Item:
        found = self._table.get(self._key(job))
        if found is None:
            raise NotFoundError("job", job, self.tenant)
        return found

    def _said(self, head: Item) -> dict[str, Any]:
        said: dict[str, Any] = rows.unpack_exact(self._opened(None, head))
        return said

    def _open(self) -> Iterator[dict[str, Any]]:
        """Yield what the index says of each job that goes on, by priority, then age."""
        for item in self._table.query(self._p("open")):
            yield rows.unpack(item["b"]) | {"num": int(item["num"]), "rev": int(item["rev"])}

    def _told(self) -> list[tuple[int, int]]:
        return [(int(item["num"]), int(item["rev"])) for item in self._table.query(self._p("open"))]

    def _ids(self, batch: str | None, before: str | None, *, only_open: bool) -> Iterator[str]:
        """Yield ids of jobs, newest first."""
        below = "~" if before is None else before
        if batch is not None:
            last = f"j{below}"
            items = self._table.query(self._p("batch", batch), first="j", last=last, backwards=True)
            yield from (item["job"] for item in items if item["s"] != last)
        elif only_open:
            entries = sorted(self._open(), key=lambda one: -one["num"])
            yield from (one["job"] for one in entries if before is None or one["num"] < int(before))
        else:
            items = self._table.query(self._p("jobs"), first="0", last=below, backwards=True)
            yield from (item["job"] for item in items if item["s"] != below)

    def _due(self, entry: Mapping[str, Any], at: float) -> Iterator[float]:
        if entry["limit"] is not None:
            yield entry["limit"]
        coming = [due for due in entry["retries"] if due > at]
        yield from coming
        if not coming and len(entry["retries"]) == MOST_RETRIES:
            try:
                yield from self._reading(entry["job"], lambda job: list(job.due(at)))
            except NotFoundError:
                return

    # Jobs in hand.

    def _slot(self, job: str) -> _Slot:
        with self._mutex:
            slot = self._slots.setdefault(job, _Slot())
            self._slots.move_to_end(job)
            while len(self._slots) > _KEPT:
                self._slots.popitem(last=False)
            return slot

    def _reading(self, job: str, read: Callable[[DynamoJob], _T]) -> _T:
        """Read of a job as it is now."""
        slot = self._slot(job)
        with slot.lock:
            now = self._this_round()
            if now is not None and slot.job is not None and slot.since is now:
                return read(slot.job)
            found = self._fresh(slot, job, self._head(job))
            if found is None:
                raise NotFoundError("job", job, self.tenant)
            slot.since = now
            return read(found)

    def _fresh(self, slot: _Slot, job: str, head: Item | None) -> DynamoJob | None:
        """Return a job as it is now; `head` was just read."""
        for tries in range(_TRIES):
            if head is None:
                slot.forget()
                return None
            if slot.job is None or not _same(slot.job, head):
                self._load(slot, job, head)
            if slot.job is not None:
                return slot.job
            # A change was under way while it was read.
            pause(tries)
            head = self._table.get(self._key(job))
        raise self._table.busy()

    def _load(self, slot: _Slot, job: str, head: Item) -> None:
        said, num = self._said(head), int(head["num"])
        if slot.fixed is not None and slot.fixed.number != num:
            slot.forget()
        slot.job = None
        p, place = self._key(job)[0], _digits(num)
        wanted = {
            index: rev
            for index, rev in enumerate(said["revs"])
            if rev and slot.groups.get(index, (0, b""))[0] != rev
        }
        keys = [(p, f"{place}/g{index:04d}") for index in wanted]
        parts = [(p, f"{place}/d{index:04d}") for index in range(said["parts"])]
        items = self._table.get_all(keys + ([] if slot.fixed else parts))
        if slot.fixed is None:
            if any(part not in items for part in parts):
                return
            new = rows.new_job(said["new"])
            told: list[Any] = rows.unpack(b"".join(items[part]["b"] for part in parts)) if parts else []
            slot.fixed = fixed(num, [rows.defined(new, position, one) for position, one in enumerate(told)])
        for index, key in zip(wanted, keys, strict=True):
            if key not in items or int(items[key]["rev"]) != wanted[index]:
                return
            slot.groups[index] = wanted[index], self._opened(job, items[key])
        made = DynamoJob(said, slot.fixed)
        for index, rev in enumerate(said["revs"]):
            if rev:
                made.apply(index, rows.unpack(slot.groups[index][1]))
        made.rev = int(head["rev"])
        slot.job = made

    def _work(self, jobs: Mapping[str, DynamoJob], workers: Mapping[str, WorkerRecord], at: float) -> _Work:
        ordered = dict(sorted(jobs.items(), key=lambda item: item[1].number))
        return _Work(self.tenant, at, ordered, workers)

    # Changes.

    def _change(self, job: str, act: Callable[[_Work], _T]) -> _T:
        """Change a job that must be there. NotFoundError."""
        return self._run([job], act)

    def _run(
        self,
        jobs: Iterable[str],
        act: Callable[[_Work], _T],
        worker: str | None = None,
        records: Mapping[str, WorkerRecord] | None = None,
    ) -> _T:
        """Let the reference's rules act on jobs, and write what changed, in one transaction.

        At first what this process knows is trusted: if that was old, the transaction fails. What changes nothing, or is
        refused, is decided again by what was just read.
        """
        names = sorted(set(jobs))
        with ExitStack() as held:
            slots = {job: self._slot(job) for job in names}
            for slot in slots.values():
                held.enter_context(slot.lock)
            for tries in range(_TRIES):
                try:
                    return self._try(slots, act, worker, records or {}, trusting=tries == 0)
                except ConditionFailedError as failed:
                    if "worker" in failed.which and worker is not None:
                        self._leases.pop(worker, None)
                    if tries:
                        pause(tries)
        raise self._table.busy()

    def _try(
        self,
        slots: Mapping[str, _Slot],
        act: Callable[[_Work], _T],
        worker: str | None,
        records: Mapping[str, WorkerRecord],
        *,
        trusting: bool,
    ) -> _T:
        """Act once, and write. ConditionFailedError: read anew, and act again."""
        found, leases, read = self._gather(slots, worker, trusting=trusting)
        at = max([self.now(), *(job.latest for job in found.values())])
        try:
            result = act(self._work(found, {**leases, **records}, at))
            dirty = [job for job in found.values() if job.dirty]
            if dirty:
                self._commit(dirty, slots, at, worker)
        except BaseException as error:
            for slot in slots.values():
                slot.job = None
            if isinstance(error, StoreError) and not read and not isinstance(error, StoreUnavailableError):
                raise ConditionFailedError from error
            raise
        now = self._this_round()
        if (
            not dirty
            and not read
            and not all(now is not None and slot.since is now for slot in slots.values())
        ):
            raise ConditionFailedError
        if dirty or read:
            for slot in slots.values():
                slot.since = now
        return result

    def _run_all(self, jobs: Iterable[str], act: Callable[[_Work], None], worker: str | None = None) -> None:
        """Let rules act on jobs that know nothing of each other: at once, or one by one if that is too much."""
        try:
            self._run(jobs, act, worker)
        except _TooManyError:
            for job in dict.fromkeys(jobs):
                self._run([job], act, worker)

    def _advance_one(
        self, worker: str, job: str, outcomes: Sequence[Outcome], begin: Sequence[StepRef]
    ) -> Advanced:
        ended = [one for one in outcomes if one.ref.job == job]
        begun = [ref for ref in begin if ref.job == job]
        return self._run([job], lambda work: work.advance(worker, ended, begun), worker)

    def _gather(
        self, slots: Mapping[str, _Slot], worker: str | None, *, trusting: bool
    ) -> tuple[dict[str, DynamoJob], dict[str, WorkerRecord], bool]:
        """Return jobs, leases, and whether they were just read."""
        known = {job: slot.job for job, slot in slots.items() if slot.job is not None}
        lease = None if worker is None else self._leases.get(worker)
        if trusting and len(known) == len(slots) and slots and (worker is None or lease is not None):
            return known, {} if lease is None else {lease.id: lease}, False
        keys = [self._key(job) for job in slots] + ([] if worker is None else [self._desk(worker)])
        items = self._table.get_all(keys)
        found: dict[str, DynamoJob] = {}
        for job, slot in slots.items():
            fresh = self._fresh(slot, job, items.get(self._key(job)))
            if fresh is not None:
                found[job] = fresh
        leases: dict[str, WorkerRecord] = {}
        if worker is not None:
            item = items.get(self._desk(worker))
            if item is not None and "gone" not in item:
                leases[worker] = self._leases[worker] = _worker(item)
            else:
                self._leases.pop(worker, None)
        return found, leases, True

    def _check_lease(self, worker: str) -> None:
        item = self._table.get(self._desk(worker))
        if item is None or "gone" in item or float(item["ends"]) <= self.now():
            self._leases.pop(worker, None)
            raise LeaseLostError(worker)

    def _commit(
        self, jobs: Sequence[DynamoJob], slots: Mapping[str, _Slot], at: float, worker: str | None
    ) -> None:
        """Write what changed of jobs, in one transaction. ConditionFailedError; _TooManyError if it does not fit."""
        mark = _mark()
        written = [self._written(job, at, mark) for job in jobs]
        actions = [action for some, _, _ in written for action in some]
        if worker is not None:
            actions.append(Action.check(self._desk(worker), "worker", when=_LIVES, at=number(at)))
        if len(actions) > MOST_ACTIONS:
            raise _TooManyError
        for _, _, apart in written:
            apart.flush()
        try:
            self._table.transact(actions, mark)
        except ConditionFailedError:
            # The answer may have been lost, and the call repeated.
            if not self._was_mine(jobs[0], mark):
                raise
        for job, (_, groups, _) in zip(jobs, written, strict=True):
            job.rev += 1
            job.settled()
            slot = slots[job.new.id]
            for index, data in groups.items():
                slot.groups[index] = job.rev, data

    def _was_mine(self, job: DynamoJob, mark: str) -> bool:
        head = self._table.get(self._key(job.new.id))
        return head is not None and head.get("mark") == mark

    def _written(
        self, job: DynamoJob, at: float, mark: str
    ) -> tuple[list[Action], dict[int, bytes], _Keeper]:
        """Return what writes a job, its groups, and what is to be written before."""
        new, rev, place = job.new, job.rev + 1, _digits(job.number)
        p = self._key(new.id)[0]
        apart = self._keeper(new.id, place)
        groups = job.groups(apart.keep)
        job.latest = at
        for index in groups:
            job.revs[index] = rev
        actions = [
            Action.put(
                {
                    **self._item(*self._key(new.id)),
                    **apart.packed(rows.pack_exact(job.head())),
                    "rev": rev,
                    "num": job.number,
                    "mark": mark,
                },
                "head",
                when="#rev = :rev AND #num = :num",
                rev=job.rev,
                num=job.number,
            )
        ]
        for index, data in groups.items():
            actions.append(
                Action.put({**self._item(p, f"{place}/g{index:04d}"), **apart.packed(data), "rev": rev})
            )
        if job.fresh:
            actions.append(self._event_item(job, apart))
        actions += self._indexed(job, at, rev)
        return actions, groups, apart

    def _event_item(self, job: DynamoJob, apart: _Keeper) -> Action:
        data = rows.pack_exact([rows.event(one) for one in job.fresh])
        place = f"{_digits(job.number)}/e{_digits(job.last)}"
        return Action.put({**self._item(self._key(job.new.id)[0], place), **apart.packed(data)})

    def _indexed(self, job: DynamoJob, at: float, rev: int) -> list[Action]:
        new, place = job.new, _digits(job.number)
        key = self._p("open"), _rank(new.priority, place)
        if job.open:
            entry = {**self._item(*key), "num": job.number, "rev": rev, "b": rows.pack(job.index(at))}
            actions = [Action.put(entry)]
        else:
            actions = [Action.delete(key)]
        if new.batch is not None:
            member = self._item(self._p("batch", new.batch), f"j{place}")
            actions.append(Action.put({**member, "job": new.id, "state": job.state.value}))
        return actions

    # Submission.

    def _duplicate(self, job: NewJob) -> JobRecord | None:
        if job.dedup_key is None or not submission.storable(job.dedup_key):
            return None
        for _ in range(_TRIES):
            item = self._table.get((self._p("dedup", job.dedup_key), "head"))
            if item is None:
                return None
            try:
                return self.job(item["job"])
            except NotFoundError:
                # It was deleted between the two reads.
                continue
        raise self._table.busy()

    def _check(self, job: NewJob, faults: submission.SubmissionFaults) -> None:
        found = submission.SubmissionFaults()
        try:
            faults.finish()
        except SubmissionError as error:
            found.join(error)
        submission.check_names(job, found)
        if submission.storable(job.id) and self._table.get(self._key(job.id)) is not None:
            found.add(submission.known_id(job.id))
        if job.batch is not None and submission.storable(job.batch):
            batch = self._table.get((self._p("batch", job.batch), "head"))
            if batch is None:
                found.add(submission.unknown_batch(job.batch))
            elif "cancelled" in batch:
                found.add(submission.cancelled_batch(job.batch))
        found.finish()

    def _insert(self, new: NewJob, steps: Sequence[NewStep]) -> JobRecord:
        """Store a job whose faults have been looked for. ConditionFailedError if it has some now."""
        counter = self._table.update((self.tenant, "counter"), "ADD #total :one", {":one": 1})
        num, at = int(counter["total"]), self.now()
        place, p, mark = _digits(num), self._key(new.id)[0], _mark()
        apart = self._keeper(new.id, place)
        told = [rows.definition(step, apart.keep) for step in steps]
        data = rows.pack(told)
        parts = [data[first : first + rows.LARGEST] for first in range(0, len(data), rows.LARGEST)]
        job = DynamoJob(
            {**empty_head(new, at), "revs": [0] * -(-len(steps) // rows.GROUP), "parts": len(parts)},
            fixed(num, [rows.defined(new, position, one) for position, one in enumerate(told)]),
        )
        job.begin_life()
        job.follow(at)
        items = [{**self._item(p, f"{place}/d{index:04d}"), "b": part} for index, part in enumerate(parts)]
        # Nobody sees them before the head is there.
        self._table.write_all(items[1:])
        job.latest = at
        head = {**self._item(*self._key(new.id)), **apart.packed(rows.pack_exact(job.head()))}
        actions = [
            Action.put({**head, "rev": 1, "num": num, "mark": mark}, "head", when="attribute_not_exists(p)"),
            *map(Action.put, items[:1]),
            Action.put({**self._item(self._p("jobs"), place), "job": new.id}),
            self._event_item(job, apart),
            *self._indexed(job, at, 1),
        ]
        if new.dedup_key is not None:
            known = self._item(self._p("dedup", new.dedup_key), "head")
            actions.append(Action.put({**known, "job": new.id}, "dedup", when="attribute_not_exists(p)"))
        if new.batch is not None:
            key = self._p("batch", new.batch), "head"
            actions.append(
                Action.check(key, "batch", when="attribute_exists(p) AND attribute_not_exists(#cancelled)")
            )
        apart.flush()
        try:
            self._table.transact(actions, mark)
        except ConditionFailedError:
            if not self._was_mine(job, mark):
                raise
        return job.record

    def _clear(self, job: str, place: str) -> None:
        """Remove what lies about a job that is gone."""
        items = list(self._table.query(self._key(job)[0], first=f"{place}/", last=f"{place}/~"))
        for item in items:
            if "blob" in item and self._blobs is not None:
                self._blobs.delete(item["blob"])
        self._table.write_all(gone=[(item["p"], item["s"]) for item in items])

    # Workers that are gone.

    def _take(self, workers: Collection[str], limit: int | None) -> Recovered:
        """End leases, take what they hold, `limit` steps at most, and forget workers of whom nothing is left."""
        known = self._end_leases(workers)
        if not known:
            return Recovered()
        entries = sorted(self._open(), key=lambda entry: entry["num"])
        taken = Recovered()
        left: set[str] = set()
        for worker in sorted(known):
            for entry in entries:
                if worker not in entry["holders"]:
                    continue
                room = None if limit is None else limit - len(taken.returned) - len(taken.ambiguous)
                if room == 0:
                    left.add(worker)
                    break
                some = self._take_from(worker, entry["job"], room)
                taken = replace(
                    taken,
                    returned=taken.returned + some.returned,
                    ambiguous=taken.ambiguous + some.ambiguous,
                )
                if worker not in some.workers:
                    left.add(worker)
        for worker in known - left:
            self._forget(worker)
        places = {entry["job"]: entry["num"] for entry in entries}
        return Recovered(
            workers=tuple(sorted(known - left)),
            returned=_in_order(taken.returned, places),
            ambiguous=_in_order(taken.ambiguous, places),
        )

    def _take_from(self, worker: str, job: str, limit: int | None) -> Recovered:
        record = WorkerRecord(id=worker, host="", pid=0, born="", expires_at=0.0)
        return self._run(
            [job], lambda work: work._take([worker], work.now(), limit), records={worker: record}
        )

    def _end_leases(self, workers: Collection[str]) -> set[str]:
        """End leases, and return whose there were."""
        at = self.now()
        known = {one: item for one in workers if (item := self._table.get(self._desk(one))) is not None}
        for worker, item in known.items():
            self._leases.pop(worker, None)
            if "gone" not in item:
                self._end_lease(worker, min(at, float(item["ends"])))
        return set(known)

    def _end_lease(self, worker: str, at: float) -> None:
        """Let no change of a worker come through any more, whatever its clock says."""
        try:
            self._table.update(
                self._desk(worker),
                "SET #gone = :yes, #ends = :at",
                {":yes": True, ":at": number(at)},
                when="attribute_exists(p)",
            )
        except ConditionFailedError:
            pass

    def _forget(self, worker: str) -> None:
        item = self._table.get(self._desk(worker))
        for name in () if item is None else item.get("locks", ()):
            try:
                values = {":owner": worker, ":over": 0}
                key = self._p("lock", name), "head"
                self._table.update(key, "SET #ends = :over", values, when="#owner = :owner")
            except ConditionFailedError:
                continue
        try:
            self._table.delete(self._desk(worker), when="attribute_exists(#gone)")
        except ConditionFailedError:
            pass

    # Values.

    def _keeper(self, job: str, place: str) -> _Keeper:
        return _Keeper(self._table, self._blobs, self._key(job)[0], place)

    def _opened(self, job: str | None, item: Item) -> bytes:
        """Return what an item holds, or where it says that it lies."""
        if "apart" not in item:
            data: bytes = item["b"]
            return data
        found = self._table.get((item["p"], item["apart"]))
        if found is None:
            raise NotFoundError("value", f"{item['apart']} of {job or item['p']}", self.tenant)
        return self._value(found)

    def _value(self, item: Item) -> bytes:
        if "blob" in item and self._blobs is not None:
            return self._blobs.get(item["blob"])
        if "blob" in item:
            raise TooLargeError(int(item["size"]))
        data: bytes = item["b"]
        return data

    def _values(self, job: str, texts: Iterable[bytes | str | None]) -> dict[Any, Any]:
        """Return what lies apart of a job, by what stands for it."""
        names = {
            one: one.decode() if isinstance(one, rows.Apart) else str(one) for one in texts if _apart(one)
        }
        if not names:
            return {}
        p, place = self._key(job)[0], _digits(int(self._head(job)["num"]))
        keys = {name: (p, f"{place}/v{name}") for name in names.values()}
        items = self._table.get_all(keys.values())
        found: dict[Any, Any] = {}
        for one, name in names.items():
            data = self._value(items[keys[name]])
            found[one] = data if isinstance(one, bytes) else data.decode("utf-8", "surrogatepass")
        return found

    def _whole(self, job: str, steps: list[StepRecord]) -> list[StepRecord]:
        """Return steps with what lies apart of them."""
        texts = [text for step in steps for text in _texts(step)]
        if not any(map(_apart, texts)):
            return steps
        values = self._values(job, texts)

        def whole(text: Any) -> Any:
            return values[text] if _apart(text) else text

        return [
            replace(
                step,
                payload=whole(step.payload),
                result=whole(step.result),
                error=whole(step.error),
                history=tuple(replace(one, error=whole(one.error)) for one in step.history),
            )
            for step in steps
        ]


class _Keeper:
    """What lies apart of one change: written together, before what refers to it."""

    def __init__(self, table: Table, blobs: BlobStore | None, p: str, place: str) -> None:
        self._table, self._blobs, self._p, self._place = table, blobs, p, place
        self._items: dict[str, Item] = {}

    def keep(self, data: bytes) -> str:
        """Keep bytes, and return their name."""
        name = rows.name_of(data)
        if name not in self._items:
            item: Item = {"p": self._p, "s": f"{self._place}/v{name}"}
            self._items[name] = item | (
                {"b": data}
                if len(data) <= rows.LARGEST
                else {"blob": self._blob(name, data), "size": len(data)}
            )
        return name

    def packed(self, data: bytes) -> Item:
        """Return how an item says something that may be too large for it."""
        return {"b": data} if len(data) <= rows.LARGEST else {"apart": f"{self._place}/v{self.keep(data)}"}

    def flush(self) -> None:
        """Write it."""
        self._table.write_all(self._items.values())

    def _blob(self, name: str, data: bytes) -> str:
        if self._blobs is None:
            raise TooLargeError(len(data))
        key = f"values/{rows.name_of(self._p.encode('utf-8', 'surrogatepass'))[:16]}/{self._place}/{name}"
        self._blobs.put(key, data)
        return key


def _limited(steps: Iterable[NewStep]) -> Iterator[NewStep]:
    for count, step in enumerate(steps):
        if count == rows.MOST_STEPS:
            raise SubmissionError(
                [f"a job in DynamoDB has {rows.MOST_STEPS} steps at most; split it, or take PostgreSQL"]
            )
        yield step


def _cancel(work: _Work, job: str) -> None:
    found = work._jobs.get(job)
    if found is not None and found.state not in JOB_ENDS:
        work.change_job(job, JobState.CANCELLED)


def _same(job: DynamoJob, head: Item) -> bool:
    return (job.rev, job.number) == (int(head["rev"]), int(head["num"]))


def _stamp(head: Item) -> dict[str, Any]:
    return {"rev": head["rev"], "num": head["num"]}


def _digits(count: int) -> str:
    return f"{count:012d}"


def _rank(priority: int, place: str) -> str:
    return f"{priority + 10**9:010d}/{place}"


def _name(text: str) -> str:
    """Return a text as part of a key; one that is long or no text at all becomes its digest."""
    data = text.encode("utf-8", "surrogatepass")
    if len(data) <= _LONGEST_NAME and submission.storable(text) and text and not text.startswith("sha256:"):
        return text
    return f"sha256:{rows.name_of(data)}"


def _mark() -> str:
    return f"{current_random().getrandbits(128):032x}"


def _worker(item: Item) -> WorkerRecord:
    name, host, pid, born = rows.unpack(item["b"])
    return WorkerRecord(id=name, host=host, pid=pid, born=born, expires_at=float(item["ends"]))


def _lock(name: str, item: Item) -> Lock:
    return Lock(name=name, owner=item["owner"], fence=int(item["fence"]), expires_at=float(item["ends"]))


def _apart(text: object) -> bool:
    return isinstance(text, rows.Apart | rows.ApartText)


def _in_order(refs: Iterable[StepRef], places: Mapping[str, int]) -> tuple[StepRef, ...]:
    return tuple(sorted(refs, key=lambda ref: (places[ref.job], ref.position)))


def _joined(parts: Iterable[Advanced]) -> Advanced:
    """Return what was done, job by job, as one."""
    told = list(parts)
    waits = [one.retry_in for one in told if one.retry_in]
    return Advanced(
        begun=tuple(ref for one in told for ref in one.begun),
        refused={ref: why for one in told for ref, why in one.refused.items()},
        late=tuple(ref for one in told for ref in one.late),
        ended={job: state for one in told for job, state in one.ended.items()},
        retry_in=min(waits, default=0.0),
    )


def _texts(step: StepRecord) -> Iterator[bytes | str | None]:
    yield from (step.payload, step.result, step.error)
    yield from (one.error for one in step.history)
