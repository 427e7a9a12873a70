"""What the commands of `holdfast runs` print."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from holdfast.cli import _jobs_show, _show
from holdfast.infrastructure.resilience.clock import current_clock
from holdfast.infrastructure.store.state import JOB_ENDS, JobState, StepState

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from holdfast.services.jobs.graphs.runs import OrderView, Runs, RunSummary, RunView
    from holdfast.services.jobs.graphs.service import RunService

_LOOK = 0.25


def facts(view: RunView) -> dict[str, Any]:
    """Return a run as plain values; times are seconds since the epoch."""
    return asdict(view)


def wanting(view: RunView) -> bool:
    """Return whether a run has ended otherwise than well."""
    return view.status in JOB_ENDS and view.status is not JobState.SUCCEEDED


def runs(found: Sequence[RunSummary], *, as_json: bool) -> None:
    """Print runs."""
    if as_json:
        _show.as_json([asdict(one) for one in found])
        return
    columns = ("run", "flow", "state", "done", "total", "created")
    rows = [
        (one.run_id, one.flow_id, one.state.value, one.done, one.total, _jobs_show.at(one.created_at))
        for one in found
    ]
    _show.rows("Runs", columns, rows)


def run(view: RunView, *, as_json: bool) -> None:
    """Print a run and its orders, each below those it waits for."""
    if as_json:
        _show.as_json(facts(view))
        return
    again = f", again what failed in {view.retry_of}" if view.retry_of else ""
    _show.line(f"{view.run_id} {view.flow_id}: {view.status}{again}")
    depths = _depths(view.orders)
    ordered = sorted(view.orders, key=lambda one: (depths[one.name], one.number))
    rows = [
        (
            "  " * depths[one.name] + one.name,
            "reserved" if one.reserved else one.state.value,
            took(one),
            ", ".join(one.depends_on),
            one.error or ("" if one.must_succeed else "need not succeed"),
        )
        for one in ordered
    ]
    _show.rows("", ("order", "state", "took", "after", "why"), rows)
    if view.status in JOB_ENDS and view.status is not JobState.SUCCEEDED and view.finished:
        _show.line(f"do what has not succeeded again: holdfast runs retry {view.run_id}")


def took(order: OrderView) -> str:
    """Return how long an order ran."""
    if order.started_at is None or order.finished_at is None:
        return ""
    return f"{order.finished_at - order.started_at:.1f} s"


def _depths(orders: Sequence[OrderView]) -> dict[str, int]:
    """Return how many orders each has before it, one after the other, at most."""
    from graphlib import TopologicalSorter

    depths: dict[str, int] = {}
    waits = {one.name: one.depends_on for one in orders}
    for name in TopologicalSorter(waits).static_order():
        depths[name] = max((depths[one] + 1 for one in waits[name]), default=0)
    return depths


class Telling:
    """Prints a line for each order and run whose state has changed."""

    def __init__(self, runs: Runs, *, as_json: bool) -> None:
        self._runs, self._as_json = runs, as_json
        self._known: dict[str, dict[str, StepState]] = {}
        self._ended: dict[str, bool] = {}

    @property
    def wanting(self) -> bool:
        """Whether a run that was seen has ended otherwise than well."""
        return any(self._ended.values())

    def look(self, run: str) -> None:
        """Say what has changed in a run."""
        if run in self._ended:
            return
        view = self._runs.status(run)
        known = self._known.setdefault(run, {})
        for one in view.orders:
            if one.state is not known.get(one.name, StepState.PENDING):
                known[one.name] = one.state
                self._say_order(run, one)
        if view.finished:
            self._ended[run] = wanting(view)
            self._known.pop(run)
            self._say_run(view)

    def _say_order(self, run: str, one: OrderView) -> None:
        if self._as_json:
            said = {"run": run, "order": one.name, "state": one.state.value, "error": one.error}
            _jobs_show.as_line(said)
        else:
            why = f": {one.error}" if one.error else ""
            lasted = f" ({took(one)})" if took(one) else ""
            print(f"{run[:8]} {one.name}: {one.state}{lasted}{why}", flush=True)

    def _say_run(self, view: RunView) -> None:
        if self._as_json:
            _jobs_show.as_line({"run": view.run_id, "status": view.status.value})
            return
        good = sum(one.state is StepState.SUCCEEDED for one in view.orders)
        print(f"run {view.run_id}: {view.status}: {good} of {len(view.orders)} orders succeeded", flush=True)


@contextmanager
def saying_when_it_stops(service: RunService, text: Callable[[], str]) -> Generator[None, None, None]:
    """Say so, in a thread of its own, when a service was told to stop: orders may take long to end."""
    done = threading.Event()

    def say() -> None:
        while not current_clock().wait(done, _LOOK):
            if service.stopped_by is not None:
                _jobs_show.note(text())
                return

    thread = threading.Thread(target=say, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
