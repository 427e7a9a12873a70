"""The tables of `python -m benchmarks.lab`: what they show of runs, and where they say that the default loses."""

from dataclasses import asdict
from math import inf
from pathlib import Path

import pytest

from benchmarks import lab as bench
from holdfast.lab.measures import NAMES, Measures

EVEN = Measures(**dict.fromkeys(NAMES, 0.5))


def measures(**given: float) -> Measures:
    return Measures(**{**asdict(EVEN), **given})


def test_what_never_recovers_is_counted() -> None:
    """Recovery is the mean of what recovers, and how often nothing did."""
    assert bench.recovery([inf, inf]) == "never"
    assert bench.recovery([2.0, 2.0]) == "2.0"
    assert bench.recovery([3.0, inf]) == "3.0; never 1 of 2"


def test_losses_are_paired_by_seed() -> None:
    """A peer that is better on every seed is told; one that is better on the mean of other seeds is not."""
    ours = {0: measures(recovery=9.0), 1: measures(recovery=8.0)}
    results = {
        ("holdfast", "stall"): ours,
        ("hyx", "stall"): {0: measures(recovery=4.0), 1: measures(recovery=4.0)},
        ("backoff", "stall"): {2: measures(recovery=0.0)},
        ("redress", "stall"): {0: measures(recovery=inf), 1: measures(recovery=0.0)},
    }
    rows = [row.split(" | ")[:3] for row in bench.losses(results)]
    assert rows in ([["| stall", "recovery", "hyx"]], [])  # [] where hyx is not installed
    assert ("hyx" in bench.policies()) is bool(rows)


def test_runs_are_kept_and_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept is read back as it was, what never happens included; nothing missing means nothing to do."""
    monkeypatch.setattr(bench, "KEPT", tmp_path)
    monkeypatch.setattr(bench, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(bench, "policies", lambda: ["none"])
    monkeypatch.setattr("holdfast.lab.scenarios", lambda: {"healthy": None})
    assert bench.work(1, 1, seconds=60, share=(0, 1)) == 0
    found = bench.load()
    assert found["none", "healthy"][100].opened == inf
    before = (tmp_path / "0.jsonl").read_text(encoding="utf-8")
    assert bench.work(1, 1, seconds=60, share=(0, 1)) == 0
    assert (tmp_path / "0.jsonl").read_text(encoding="utf-8") == before
    bench.keep(found)
    (tmp_path / "0.jsonl").unlink()
    again = bench.load()["none", "healthy"][100]
    assert asdict(again) == pytest.approx(asdict(found["none", "healthy"][100]), abs=1e-6)


def test_every_row_says_how_many_seeds_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that has fewer runs in one scenario than in another shows the least and the most; without a run, a dash."""
    monkeypatch.setattr(bench, "policies", lambda: ["none", "holdfast"])
    results = {("none", "stall"): {100: EVEN}, ("holdfast", "stall"): {100: EVEN, 101: EVEN}}
    rows = bench.matrix(results, "goodput", ["stall", "spike"])[2:]
    assert rows == ["| none | 0–1 | 0.50 | – |", "| holdfast | 0–2 | 0.50 | – |", ""]


def test_the_summary_goes_between_its_marks() -> None:
    """A page keeps what stands around the marks, also when it is written again."""
    results = {("none", "stall"): {0: EVEN}, ("holdfast", "stall"): {0: EVEN}}
    once = bench.put("before <!-- made by benchmarks.lab -->stale<!-- end --> after", results)
    assert once.startswith("before ")
    assert once.endswith(" after")
    assert "| stall | 1 | 0.500 |" in once
    assert "stale" not in once
    assert bench.put(once, results) == once
