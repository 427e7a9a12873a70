"""Runs of the benchmark: what they measure, how they are judged, and that none outlives who asked for it."""

import time
from collections.abc import Iterator

import pytest

from holdfast.api.internal.resilience import _benchmark, _benchmark_worker
from holdfast.api.internal.resilience._benchmark import Benchmark, Run
from holdfast.infrastructure.resilience.cache import Cache
from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker
from holdfast.infrastructure.resilience.retry import Retry
from holdfast.infrastructure.resilience.timeout import Timeout

STACK = (Timeout(1.0), Retry(), CircuitBreaker())


@pytest.fixture
def benchmark() -> Iterator[Benchmark]:
    """Give a benchmark that ends with the test."""
    made = Benchmark()
    yield made
    made.close()


def ended(run: Run) -> Run:
    ends = time.monotonic() + 30.0
    while run.status == "running":
        assert time.monotonic() < ends, "the run does not end"
        time.sleep(0.01)
    return run


def test_what_is_not_measured_is_said(benchmark: Benchmark) -> None:
    """Policies that need more than a call that succeeds are left out, and named."""
    run = benchmark.start("x", (Cache(ttl=1.0, key=str), *STACK))
    assert (run.policies, run.skipped) == (["Timeout", "Retry", "CircuitBreaker"], ["Cache"])


@pytest.mark.parametrize("kind", sorted(_benchmark_worker.KINDS))
def test_every_kind_is_measured(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipeline of each kind lets the worker's calls pass, sync and async."""
    monkeypatch.setattr(_benchmark_worker, "_CALLS", 20)
    monkeypatch.setattr(_benchmark_worker, "_ROUNDS", 1)
    found = _benchmark_worker.measure([kind])
    assert [one["mode"] for one in found] == ["sync", "async"]


def test_a_run_that_does_not_end_is_stopped() -> None:
    """A worker that takes too long is killed, and the next run may begin."""
    benchmark = Benchmark(seconds=0.01)
    run = ended(benchmark.start(None, STACK))
    assert (run.status, run.results, (run.failure or {})["status"]) == ("failed", [], 504)
    assert benchmark.start(None, STACK).id == 2
    benchmark.close()


def test_a_worker_ends_with_its_parent() -> None:
    """A worker whose parent died does not go on."""
    process = _benchmark.spawn()
    assert process.stdin is not None
    process.stdin.write('["Timeout", "Retry", "CircuitBreaker"]\n')
    process.stdin.close()
    assert process.wait(20.0) == 1
    assert process.stdout is not None
    process.stdout.close()


def test_the_last_runs_are_remembered() -> None:
    """Of many runs the last ones are kept, newest first."""
    benchmark = Benchmark(seconds=0.01, keep=2)
    for at in range(1, 5):
        assert at == ended(benchmark.start(None, STACK)).id
    assert [run.id for run in benchmark.runs] == [4, 3]
    benchmark.close()


def test_runs_are_judged() -> None:
    """A run that adds more than the threshold for its policies says in which mode."""
    run = Run(id=1, operation=None, policies=["Retry", "Timeout"], skipped=[], started=0.0)
    slow = {"bare_ns": 1.0, "call_ns": 4002.0, "added_ns": 4001.0, "ratio": 4002.0}
    fast = {"bare_ns": 1.0, "call_ns": 4001.0, "added_ns": 4000.0, "ratio": 4001.0}
    _benchmark.settle(run, [{"mode": "sync", **fast}, {"mode": "async", **slow}])
    assert (run.status, run.exceeded) == ("done", ["added_ns_per_policy (async)"])
