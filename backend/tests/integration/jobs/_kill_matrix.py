"""The kill matrix: where a process dies, what the next one makes of it, and what the service counted meanwhile."""

import json
import pickle
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sql

import holdfast
from backend.tests.integration.jobs._audit import DumpedJob, check, check_change, dump
from backend.tests.integration.jobs._homes import Home, PostgresHome
from backend.tests.integration.jobs._kill_job import JOB, ROWS, SPARED, Plan
from backend.tests.integration.jobs._kill_service import Labels
from backend.tests.integration.jobs._kill_worker import KILLED, Nursery
from backend.tests.integration.jobs._next_version import migrations
from holdfast.infrastructure.store.sql import drop_tenant, open_store, tenants
from holdfast.infrastructure.store.state import (
    JobState,
    OutboxState,
    StateStore,
    StepRecord,
    StepState,
    StoreVersionError,
)

SOURCE = Path(holdfast.__file__).parent
STORES = ("sqlite", "postgresql")
ORDERS = [f"A{number}" for number in range(1, ROWS + 1)]
HEAD, LABEL = "order,street", ",label"
STARTS = "".join(f"{order},{order} Kelp Lane\n" for order in ORDERS)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A process dies at each of these boundaries, one process after the other; the next one comes to the end.

    `fresh`: in a store that is not there yet. `upgrade`: from the death of that number on, counted from 0, processes
    are of a later version of the library, which has to migrate the store.
    """

    kills: tuple[str, ...]
    handler: str = "asked"
    terms: dict[str, Any] = field(default_factory=dict[str, Any])
    table: bool = False
    fresh: bool = False
    upgrade: int | None = None
    stores: Sequence[str] = STORES

    @property
    def name(self) -> str:
        """What reports call it."""
        extra = [value for name, value in self.terms.items() if name in {"extra", "record"}]
        return " ".join([" ".join(self.kills), self.handler, *extra])

    @property
    def points(self) -> set[str]:
        """The boundaries without their numbers."""
        return {kill.partition(":")[0] for kill in self.kills}


def commits(method: str, *before: str, at: Sequence[int] = (1,), **settings: Any) -> Iterator[Case]:
    """Yield the two sides of a commit of the store, each time that matters."""
    for number in at:
        for side in ("before", "after"):
            yield Case(kills=(*before, f"store.{method}.{side}_commit:{number}"), **settings)


def points(*names: str, **settings: Any) -> Iterator[Case]:
    """Yield boundaries."""
    for name in names:
        yield Case(kills=(name,), **settings)


def matrix() -> Iterator[Case]:
    """Yield every case."""
    one = {"concurrency": 1}
    for method in (
        "create_batch",
        "create_job",
        "preview_job",
        "approve_job",
        "register",
        "recover",
        "sweep",
    ):
        yield from commits(method)
    for method in ("claim", "acquire", "note", "settle_outbox", "unlock", "retire"):
        yield from commits(method)
    yield from commits("anchor", fresh=True, stores=("sqlite",))
    yield from commits("advance", at=(1, 2, 7, ROWS + 1), terms=one)
    yield from commits("advance", at=(1, 2), terms={"record": "group"})
    yield from commits("advance", at=(3,), handler="again")
    yield from commits("advance", at=(3,), handler="unsure")
    yield from commits("change_job", at=(1, 2), terms={"extra": "paused"})
    yield from commits("set_concurrency", terms={"extra": "bounded"})
    yield from commits("skip", terms={"extra": "skipped"})
    yield from commits("release", terms={"stop": 4})
    yield from commits("cancel_batch", terms={"stop": 4, "extra": "cancelled"})
    yield from commits("delete_job", terms={"extra": "archived"})
    yield from commits("mark_dirty", terms={"extra": "locks"})
    yield from commits("clear_dirty", terms={"extra": "locks"})
    slowly = {"lease": 0.3, "pace": 0.06}
    yield from commits("renew", terms=slowly)
    yield from points("engine.before_renewal", "engine.after_renewal", terms=slowly)
    # What the first one left, a second one takes over, and dies at it.
    for handler in ("asked", "again"):
        yield from commits("recover", "engine.after_call:3", handler=handler)
    yield from commits("resolve", "engine.after_call:3")
    yield from commits("resolve", "engine.before_call:3")
    yield from commits("sweep", "engine.after_call:5", handler="unsure")
    for handler in ("asked", "again", "unsure"):
        yield from points("engine.before_call:3", "engine.after_call:3", handler=handler)
        yield from points("engine.before_commit:4", "engine.after_commit:4", handler=handler)
    yield from points(
        "engine.before_claim", "engine.after_claim", "engine.before_commit", "engine.after_commit"
    )
    yield from points("engine.after_call:5", handler="unsure", terms={"record": "group"})
    yield from points("engine.before_write_back", "engine.after_write_back")
    for name in ("before_temp_write", "after_temp_write", "after_fsync", "after_announce", "before_rename"):
        yield from points(f"writeback.{name}")
    yield from points("writeback.after_rename", "writeback.after_folder_sync")
    yield Case(kills=("writeback.after_announce", "writeback.after_rename"))
    yield from points("writeback.before_sql_commit", "writeback.after_sql_commit", table=True)
    # Of a migration's statements the first two ask for the version; then, what each version changes, and its number.
    ends = ("migration.before_commit", "migration.after_commit")
    yield from points("migration.after_statement:20", "migration.after_version", *ends, fresh=True)
    for name in (
        "after_statement:3",
        "after_statement:5",
        "after_version:1",
        "after_statement:10",
        "after_version:2",
    ):
        yield Case(kills=("engine.after_call:3", f"migration.{name}"), upgrade=1)
    for name in ends:
        yield Case(kills=("engine.after_call:3", name), upgrade=1)
    yield Case(
        kills=("engine.after_call:3", "migration.after_version:1", "migration.before_commit"), upgrade=1
    )


def shortened() -> set[tuple[str, str]]:
    """Return stores and names of cases that have every boundary and every handler, on one store or the other."""
    seen: set[str] = set()
    taken: set[tuple[str, str]] = set()
    for case in CASES:
        shown = {*case.points, case.handler}
        if not shown <= seen:
            seen |= shown
            # Two by two, so that both sides of a commit are seen on the same store.
            taken.add((case.stores[len(taken) // 2 % len(case.stores)], case.name))
    return taken


def named_in_the_source() -> set[str]:
    """Return every boundary that the source names; those of the store's commits by its methods."""
    methods: set[str] = set()
    names: set[str] = set()
    for path in SOURCE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if path.name == "_boundaries.py":
            continue
        names |= set(re.findall(r"\breach\(\s*f?\"([^\"]+)\"", text))
        if "infrastructure/store" in path.as_posix():
            methods |= set(re.findall(r"\bwrite\(\s*\"(\w+)\"", text))
    return {name.replace("{method}", method) for name in names for method in methods}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What came of a case; numbers are rows, seconds."""

    case: str
    store: str
    doubt: int
    asked_again: int
    review: int
    lost: int
    repeated: int
    took: float


@dataclass(frozen=True, kw_only=True)
class Nurseries:
    """What forks processes of this version of the library, and of a later one."""

    now: Nursery
    later: Nursery | None = None


class Scene:
    """One case on one store: the folder, the orders, the service and the processes."""

    def __init__(self, case: Case, home: Home, folder: Path, nurseries: Nurseries, service: Labels) -> None:
        assert home.url is not None
        self.case = case
        self.service = service
        self.nurseries = nurseries
        self.kind = "postgresql" if isinstance(home, PostgresHome) else "sqlite"
        self.url = f"sqlite:///{folder / 'fresh'}/" if case.fresh and self.kind == "sqlite" else home.url
        self.plan = Plan(
            url=self.url,
            folder=str(folder),
            port=service.port,
            handler=case.handler,
            orders=self._orders_url(folder, home.url) if case.table else "",
            **case.terms,
        )
        self.doubtful: set[str] = set()
        self._lay_out()

    def _orders_url(self, folder: Path, url: str) -> str:
        if self.kind == "sqlite":
            return f"sqlite:///{folder / 'orders.sqlite'}"
        return url.replace("postgresql://", "postgresql+psycopg://")

    def _lay_out(self) -> None:
        self.service.forget()
        self.plan.file.write_text(f"{HEAD}\n{STARTS}", encoding="utf-8")
        if not self.case.table:
            return
        engine = sql.create_engine(self.plan.orders)
        with engine.begin() as connection:
            connection.execute(sql.text("DROP TABLE IF EXISTS orders"))
            connection.execute(
                sql.text('CREATE TABLE orders ("order" TEXT PRIMARY KEY, street TEXT, label TEXT)')
            )
            rows = [{"key": order, "street": f"{order} Kelp Lane"} for order in ORDERS]
            connection.execute(sql.text("INSERT INTO orders VALUES (:key, :street, NULL)"), rows)
        engine.dispose()

    def play(self) -> Verdict:
        """Let processes die, and one come to the end; check each time all that must hold."""
        self._vacate()
        try:
            return self._played()
        finally:
            self._vacate()

    def _vacate(self) -> None:
        """Leave no schema behind, and find none, where it is to be made, or is one of a later version."""
        changed = self.case.fresh or self.case.upgrade is not None
        if self.kind == "postgresql" and changed and "default" in tenants(self.url):
            drop_tenant(self.url, "default")

    def _played(self) -> Verdict:
        began = time.monotonic()
        before = None
        for number, kill_at in enumerate(self.case.kills):
            status = self._nursery(number).run(self.plan, kill_at)
            assert status == KILLED, f"it was not killed at {kill_at}, it ended with {status}"
            self.service.settle()
            if self.case.upgrade is not None and kill_at == "migration.after_commit":
                self._be_refused()
                continue
            with open_store(self.url) as store:
                now = dump(store, self._batches(store))
                check(now)
                if before is not None:
                    check_change(before, now)
                before = now
                self._look(now.jobs.get(JOB))
        report = Path(self.plan.folder) / "report"
        plan = replace(self.plan, report=str(report))
        status = self._nursery(len(self.case.kills)).run(plan)
        assert status == 0, f"the last process failed with {status}"
        if self.case.upgrade is None:
            with open_store(self.url) as store:
                now = dump(store, ["today"])
        else:
            self._be_refused()
            assert migrations(self.url) == ["next_1", "next_2"]
            now = pickle.loads(report.read_bytes())
        check(now)
        if before is not None and self.plan.extra != "archived":
            check_change(before, now)
        return self._judge(now.jobs.get(JOB), time.monotonic() - began)

    def _nursery(self, number: int) -> Nursery:
        """Return what forks the process of this number."""
        if self.case.upgrade is None or number < self.case.upgrade:
            return self.nurseries.now
        assert self.nurseries.later is not None
        return self.nurseries.later

    def _be_refused(self) -> None:
        """Find that the store is of a version that this process does not know."""
        try:
            open_store(self.url).close()
        except StoreVersionError:
            return
        raise AssertionError("a store of a later version was opened")

    def _batches(self, store: StateStore) -> list[str]:
        try:
            store.batch("today")
        except holdfast.HoldfastError:
            return []
        return ["today"]

    def _look(self, job: DumpedJob | None) -> None:
        """After a death: what is recorded was done once, what was not announced was not done."""
        calls = self.service.calls
        for step in job.steps if job is not None else ():
            if in_doubt(step):
                self.doubtful.add(step.idempotency_key)
        known = {step.idempotency_key: step for step in job.steps} if job is not None else {}
        unknown = calls.keys() - known.keys()
        assert not unknown or self.plan.extra == "archived", f"{unknown} were called, and nobody knows them"
        for key in calls.keys() & known.keys():
            announced = known[key].attempts or known[key].state is not StepState.PENDING
            assert announced, f"{key} was called unannounced"
            assert calls[key] == 1 or key in self.doubtful, f"{key} was called {calls[key]} times"
        for key, step in known.items():
            assert step.state is not StepState.SUCCEEDED or calls[key], f"{key} was never called"
            assert in_doubt(step) or step.state is not StepState.RUNNING or not calls[key]
        most = self.plan.concurrency if self.plan.record == "each" else ROWS
        assert len(self.doubtful) <= most * len(self.case.kills)
        self._look_at_rows()

    def _look_at_rows(self) -> set[str]:
        """Return the orders that have labels; where they are kept they are as before, or all as they should be."""
        if self.case.table:
            engine = sql.create_engine(self.plan.orders)
            with engine.connect() as connection:
                rows = connection.execute(sql.text('SELECT "order", label FROM orders')).all()
            engine.dispose()
            assert {order for order, _ in rows} == set(ORDERS)
            assert all(found in {None, f"L-{order}"} for order, found in rows)
            return {order for order, found in rows if found}
        text = self.plan.file.read_text(encoding="utf-8")
        if text == f"{HEAD}\n{STARTS}":
            return set()
        labelled = {order for order in ORDERS if f"Lane,L-{order}\n" in text}
        assert text == with_labels(labelled), "the file is neither the old one nor a new one"
        return labelled

    def _judge(self, job: DumpedJob | None, took: float) -> Verdict:
        calls, effects = self.service.calls, self.service.effects
        steps = self._archived() if job is None else {step.idempotency_key: step.state for step in job.steps}
        assert len(steps) == ROWS
        done = {key for key, state in steps.items() if state is StepState.SUCCEEDED}
        review = {key for key, state in steps.items() if state is StepState.NEEDS_REVIEW}
        cancelled = {key for key, state in steps.items() if state is StepState.CANCELLED}
        skipped = {key for key, state in steps.items() if state is StepState.SKIPPED}
        spared = cancelled | skipped
        lost = {key for key in steps if effects[key] == 0} - review - spared
        lost |= steps.keys() - done - review - spared
        lost |= {key for key in done if not calls[key]}
        again = {key for key in calls if calls[key] > 1}
        repeated = {key for key in effects if effects[key] > 1}
        repeated |= again if self.case.handler != "again" else again - self.doubtful
        assert review == (self.doubtful if self.case.handler == "unsure" else set())
        assert not (spared & calls.keys())
        assert bool(cancelled) == (self.plan.extra == "cancelled" and len(done) < ROWS)
        assert skipped == ({f"{JOB}:{key}" for key in SPARED} if self.plan.extra == "skipped" else set())
        labelled = self._look_at_rows()
        assert labelled == {key.removeprefix(f"{JOB}:") for key in done}
        if job is not None:
            self._check_end(job, bool(review), bool(cancelled))
        return Verdict(
            case=self.case.name,
            store=self.kind,
            doubt=len(self.doubtful),
            asked_again=len(again),
            review=len(review),
            lost=len(lost),
            repeated=len(repeated),
            took=took,
        )

    def _check_end(self, job: DumpedJob, reviewed: bool, cancelled: bool) -> None:  # noqa: FBT001  # two facts of one
        ends = {(True, False): JobState.RUNNING, (False, True): JobState.CANCELLED}
        assert job.record.state is ends.get((reviewed, cancelled), JobState.SUCCEEDED) or (
            self.plan.extra == "cancelled"
        )
        assert all(entry.state is OutboxState.WRITTEN for entry in job.outbox)

    def _archived(self) -> dict[str, StepState]:
        """Return the states of the steps in the archive."""
        assert self.plan.extra == "archived"
        lines = (Path(self.plan.folder) / "archive" / f"{JOB}.jsonl").read_text(encoding="utf-8").splitlines()
        found = [json.loads(line) for line in lines]
        steps = [one for one in found if "key" in one and "state" in one]
        return {f"{JOB}:{one['key']}": StepState(one["state"]) for one in steps}


def in_doubt(step: StepRecord) -> bool:
    """Return whether nobody who reads the store can tell if the step was called."""
    return step.state is StepState.NEEDS_REVIEW or (step.state is StepState.RUNNING and step.begun)


def with_labels(labelled: set[str]) -> str:
    """Return the file as it is to be when these orders have labels."""
    rows = (f"{order},{order} Kelp Lane,{f'L-{order}' if order in labelled else ''}\n" for order in ORDERS)
    return f"{HEAD}{LABEL}\n{''.join(rows)}"


def table(verdicts: Sequence[Verdict]) -> str:
    """Return the report."""
    width = max((len(one.case) for one in verdicts), default=4)
    lines = [f"{'killed at, handler':<{width}}  store       doubt  resent  review  lost  repeated   s"]
    lines += [
        f"{one.case:<{width}}  {one.store:<10}  {one.doubt:>5}  {one.asked_again:>6}  {one.review:>6}  "
        f"{one.lost:>4}  {one.repeated:>8}  {one.took:.2f}"
        for one in verdicts
    ]
    sums = {store: [one for one in verdicts if one.store == store] for store in STORES}
    names = {name for one in verdicts for name in re.findall(r"[a-z_]+\.[a-z_.]+", one.case)}
    for store, found in sums.items():
        if found:
            lost, repeated = sum(one.lost for one in found), sum(one.repeated for one in found)
            slowest = max(one.took for one in found)
            lines.append(
                f"{store}: {len(found)} cases of {ROWS} rows, lost = {lost}, repeated = {repeated}; "
                f"{sum(one.took for one in found):.0f} s, the slowest {slowest:.2f} s"
            )
    lines.append(f"{len(names)} boundaries")
    return "\n".join(lines)


CASES = list(matrix())
