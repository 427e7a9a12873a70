"""Jobs in SQLite and PostgreSQL (extras `jobs`, `postgres`): a file or a schema for each tenant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from holdfast.infrastructure.store import _decide as decide
from holdfast.infrastructure.store import _sql_keep as keep
from holdfast.infrastructure.store import _sql_work as work
from holdfast.infrastructure.store._sql_rows import packed
from holdfast.infrastructure.store._sql_submit import create_job
from holdfast.infrastructure.store._tenants import checked_tenant
from holdfast.infrastructure.store.state import TenantNotFoundError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from types import TracebackType

    from holdfast.infrastructure.resilience.clock import Clock
    from holdfast.infrastructure.store._sql_link import Link, Place
    from holdfast.infrastructure.store.state import (
        Advanced,
        BatchRecord,
        JobEvent,
        JobRecord,
        JobState,
        Lock,
        NewJob,
        NewStep,
        OutboxEntry,
        OutboxState,
        Outcome,
        Recovered,
        StepRecord,
        StepRef,
        StepState,
        Swept,
        WorkerRecord,
    )


_BUSY_TIMEOUT = 30.0


def open_store(
    url: str,
    *,
    tenant: str = "default",
    create: bool = False,
    clock: Clock | None = None,
    busy_timeout: float = 30.0,
    pooled: bool = False,
) -> SqlStateStore:
    """Open a tenant's jobs: `sqlite:///jobs.db`, `sqlite:///folder/` or `postgresql://user@host/database`.

    An older schema is migrated first. The tenant "default" is created when it is missing, others with `create`:
    TenantNotFoundError. `clock` replaces the store's own. `busy_timeout`: how many seconds calls wait for another
    writer of a SQLite file, for a PostgreSQL that restarts, and either for who migrates; StoreUnavailableError.
    `pooled`, or `?pooled=true` in the URL: behind a transaction pooler (PgBouncer, Supavisor), so that nothing may be
    left on a connection: neither prepared statements nor LISTEN.
    """
    place = _place(url, tenant, pooled=pooled)
    if tenant != "default" and not create and not place.exists(tenant):
        raise TenantNotFoundError(tenant)
    place.create(tenant, busy_timeout)
    return SqlStateStore(place.link(tenant, clock=clock, busy_timeout=busy_timeout))


def create_tenant(url: str, tenant: str) -> None:
    """Create a tenant, or bring its schema up to date. ValueError unless its name is 1 to 48 of a-z, 0-9, - and _."""
    _place(url, tenant).create(tenant, _BUSY_TIMEOUT)


def tenants(url: str) -> list[str]:
    """Return the names of all tenants, sorted."""
    return _place(url).tenants()


def drop_tenant(url: str, tenant: str) -> None:
    """Delete a tenant with all its jobs; nobody may have it open. TenantNotFoundError."""
    place = _place(url, tenant)
    if not place.exists(tenant):
        raise TenantNotFoundError(tenant)
    place.drop(tenant)


def _place(url: str, tenant: str = "default", *, pooled: bool = False) -> Place:
    checked_tenant(tenant)
    scheme, separator, rest = url.partition("://")
    if scheme in {"postgresql", "postgres"} and separator:
        from holdfast.infrastructure.store._postgres import PostgresPlace

        return PostgresPlace(url, pooled=pooled)
    if scheme != "sqlite" or rest[:1] != "/" or not rest[1:]:
        raise ValueError(
            f"{_shown(url)!r} names no store; give sqlite:///FILE, sqlite:///FOLDER/ or postgresql://HOST/DATABASE"
        )
    from holdfast.infrastructure.store._sqlite import SqlitePlace

    return SqlitePlace(rest[1:])


def _shown(url: str) -> str:
    """Return a URL as it may be printed: without user, password and settings."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme == "sqlite":
        return url
    return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"


class SqlStateStore:
    """One tenant's jobs in a database; every method is one transaction. Threads and forked processes may share it."""

    tenant: str

    def __init__(self, link: Any) -> None:
        self._link: Link = link
        self.tenant = self._link.tenant

    def __enter__(self) -> SqlStateStore:
        """Close it at the end of a `with` block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def now(self) -> float:
        """Return seconds since the epoch on the store's clock."""
        return self._link.now()

    def close(self) -> None:
        """Give back connections; calling it again does nothing."""
        self._link.close()

    def create_job(self, job: NewJob, steps: Iterable[NewStep]) -> tuple[JobRecord, bool]:
        """Store a job and all its steps, or nothing; whether it is new: a known `dedup_key` returns the first job.

        More than 1,000 steps go through a temporary table, so that a slow source keeps nobody waiting.
        """
        return create_job(self._link, job, steps)

    def job(self, job: str) -> JobRecord:
        """Return a job. NotFoundError."""
        return self._link.read(keep.job, job)

    def jobs(
        self,
        *,
        states: Iterable[JobState] = (),
        batch: str | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> list[JobRecord]:
        """Return jobs, newest first, from the one after the job `after` on; all states when none is named."""
        return self._link.read(keep.jobs, states, batch, after, limit)

    def step(self, job: str, key: str) -> StepRecord:
        """Return a step by its key. NotFoundError."""
        return self._link.read(keep.step, job, key)

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
        return self._link.read(keep.steps, job, states, worker, after, limit)

    def events(
        self, job: str, *, after: int = 0, limit: int = 1000, kinds: Collection[str] = ()
    ) -> list[JobEvent]:
        """Return a job's history, from the event after number `after` on, of these kinds or all. NotFoundError."""
        return self._link.read(keep.events, job, after, limit, kinds)

    def note(self, job: str, state: str, data: Mapping[str, Any]) -> JobEvent:
        """Append an event of kind "note" to a job's history."""
        text = packed(data)
        return self._link.write("note", keep.note, job, state, text)

    def change_job(
        self,
        job: str,
        to: JobState,
        *,
        reason: str = "",
        version: int | None = None,
    ) -> JobRecord:
        """Move a job: to paused, back to pending, cancelled, or to an end that a program decides."""
        return self._link.write("change_job", keep.change_job, job, to, reason, version)

    def preview_job(self, job: str, digest: str, preview: Mapping[str, Any]) -> JobRecord:
        """Keep a preview and the digest of what was previewed; the job becomes previewed. IllegalTransition."""
        text = packed(preview)
        return self._link.write("preview_job", keep.preview_job, job, digest, text)

    def approve_job(self, job: str, digest: str) -> JobRecord:
        """Let a previewed job run. ConflictError when `digest` is not the preview's, IllegalTransition."""
        return self._link.write("approve_job", keep.approve_job, job, digest)

    def delete_job(self, job: str) -> None:
        """Remove a job that has ended, with steps, events and outbox. IllegalTransition while it is active."""
        self._link.write("delete_job", keep.delete_job, job)

    def create_batch(self, batch: str, name: str = "") -> BatchRecord:
        """Store a batch, or return the one of this id. SubmissionError for an id that no database can store."""
        return self._link.write("create_batch", keep.create_batch, batch, name)

    def batch(self, batch: str) -> BatchRecord:
        """Return a batch. NotFoundError."""
        return self._link.read(keep.batch, batch)

    def cancel_batch(self, batch: str) -> BatchRecord:
        """Cancel every job of a batch that has not ended; cancelled sticks."""
        return self._link.write("cancel_batch", keep.cancel_batch, batch)

    def register(self, worker: WorkerRecord, lease: float) -> WorkerRecord:
        """Begin a worker's lease of `lease` seconds; claims need one."""
        return self._link.write("register", work.register, worker, lease)

    def renew(self, worker: str, lease: float) -> WorkerRecord:
        """Prolong a lease from now on. LeaseLostError when it has ended."""
        return self._link.write("renew", work.renew, worker, lease)

    def retire(self, worker: str) -> Recovered:
        """End a worker's lease and hand back what it holds: what has not begun consumes no attempt."""
        return self._link.write("retire", work.retire, worker)

    def workers(self) -> list[WorkerRecord]:
        """Return those with a lease, whether or not it has ended, until they are recovered."""
        return self._link.read(work.workers)

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
        return self._link.write("claim", work.claim, worker, limit, job, handlers, skip)

    def advance(
        self, worker: str, outcomes: Sequence[Outcome] = (), begin: Sequence[StepRef] = ()
    ) -> Advanced:
        """Record how calls ended, and let others begin, in one commit: when it returns, their intent is durable."""
        done = self._link.quick(worker, outcomes, begin)
        return done or self._link.write("advance", work.advance, worker, outcomes, begin)

    def set_concurrency(self, most: int | None) -> None:
        """Let at most so many calls of this tenant be under way at once, whoever makes them; None: any number.

        Holds for what begins from now on. ValueError below 1.
        """
        decide.check_concurrency(most)
        self._link.write("set_concurrency", work.set_concurrency, most)

    def concurrency(self) -> int | None:
        """Return how many calls of this tenant may be under way at once; None: any number."""
        return self._link.read(work.concurrency)

    def release(self, worker: str, refs: Sequence[StepRef]) -> None:
        """Hand back claimed steps that have not begun; no attempt is consumed."""
        self._link.write("release", work.release, worker, refs)

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
        return self._link.write("resolve", keep.resolve, job, key, to, result, error, by)

    def skip(self, job: str, keys: Iterable[str], *, reason: str = "", by: str = "") -> JobRecord:
        """Skip pending steps, all or none, and return the job. NotFoundError, IllegalTransition."""
        wanted = list(dict.fromkeys(keys))
        return self._link.write("skip", keep.skip, job, wanted, reason, by)

    def recover(self, gone: Iterable[str] = (), limit: int = 1000) -> Recovered:
        """Take steps from workers whose lease has ended, and from those `gone`, seen dead by the caller."""
        return self._link.write("recover", work.recover, gone, limit)

    def sweep(self, limit: int = 1000, *, slack: float = 0.0) -> Swept:
        """End what is past its limit, whoever holds it: expired jobs, timed-out jobs and steps. Fences rise.

        Steps get `slack` seconds more, so that a worker that lives ends its own calls first.
        """
        return self._link.write("sweep", work.sweep, limit, slack)

    def next_due(self) -> float | None:
        """Return when the next retry, expiry or timeout is due, on the store's clock; None: nothing waits."""
        return self._link.read(work.next_due)

    def wait(self, timeout: float) -> bool:
        """Block until there may be new work or a change, `timeout` seconds at most; spurious ends are allowed.

        What has changed since this thread's last wait ends it at once.
        """
        return self._link.wait(timeout)

    def outbox(self, job: str, *, states: Iterable[OutboxState] = (), limit: int = 1000) -> list[OutboxEntry]:
        """Return results on their way back, in order; those that are due first."""
        return self._link.read(keep.outbox, job, frozenset(states), limit)

    def owing(self) -> list[str]:
        """Return the jobs, ended or not, that have results waiting to be written back."""
        return self._link.read(keep.owing)

    def settle_outbox(self, entries: Sequence[OutboxEntry]) -> None:
        """Record what became of write-backs: state, attempts, due_at and error of each."""
        self._link.write("settle_outbox", keep.settle_outbox, entries)

    def acquire(self, name: str, owner: str, lease: float) -> Lock | None:
        """Take a lock for `lease` seconds, or prolong one's own; None while another holds it."""
        return self._link.write("acquire", keep.acquire, name, owner, lease)

    def lock(self, name: str) -> Lock | None:
        """Return a lock as somebody holds it now, None if nobody does."""
        return self._link.read(keep.lock, name)

    def holds(self, lock: Lock) -> bool:
        """Return whether this very lock is still held."""
        return self._link.read(keep.holds, lock)

    def unlock(self, lock: Lock) -> bool:
        """Give a lock back; False, and nothing, when it is no longer this one's or it was marked dirty meanwhile."""
        return self._link.write("unlock", keep.unlock, lock)

    def mark_dirty(self, name: str) -> None:
        """Say that there is something new for the holder of a lock."""
        self._link.write("mark_dirty", keep.mark_dirty, name)

    def clear_dirty(self, lock: Lock) -> bool:
        """Take the mark away; return whether there was one. LeaseLostError when the lock is lost."""
        return self._link.write("clear_dirty", keep.clear_dirty, lock)
