"""Tuning × policies: a search finds what is better, repeatably, and shows the choice that is left."""

import json
import re
from pathlib import Path

import pytest

from holdfast import CircuitBreaker, ConfigurationError, Pipeline, Policy, Retry
from holdfast.cli.main import main
from holdfast.lab import Tuning, html, load_scenarios, table, tune
from holdfast.lab.tuning import START, WEIGHTS, pipeline


def retrying(attempts: int = 1) -> Policy:
    return Retry(attempts=attempts)


def breaking(open_for: float = 10.0) -> Policy:
    return Pipeline(CircuitBreaker("lab", min_calls=5, open_for=open_for, open_cap=open_for))


def searched(short_file: Path, seed: int = 0, trials: int = 6) -> Tuning:
    return tune(
        breaking,
        {"open_for": (0.5, 20.0)},
        scenarios=[load_scenarios(short_file)["outage"]],
        weights={"recovery": 1.0, "amplification": 0.1},
        trials=trials,
        seed=seed,
    )


def test_the_same_seed_finds_the_same(short_file: Path) -> None:
    """A search that is repeated makes the same trials; another seed makes others."""
    assert searched(short_file) == searched(short_file)
    assert searched(short_file).trials[1:] != searched(short_file, seed=1).trials[1:]


def test_a_search_finds_what_is_better(short_file: Path) -> None:
    """A breaker that stays open for long is found to recover late, and a better one is named."""
    found = searched(short_file)
    assert found.trials[0].settings == {}
    assert found.best.score < found.trials[0].score
    assert found.best.settings["open_for"] < 10  # type: ignore[operator]  # a number


def test_the_front_is_what_nothing_dominates(short_file: Path) -> None:
    """No trial is better than one of the front in everything; every other one is beaten by one of it."""
    scenario = load_scenarios(short_file)["outage"]
    found = tune(
        retrying,
        {"attempts": (1, 4)},
        scenarios=[scenario],
        weights={"amplification": 1.0, "load": 1.0},
        trials=6,
    )
    assert not any(other.dominates(one) for one in found.front for other in found.trials)
    # Where nothing succeeds, the fewer attempts the better for both.
    assert [one.settings.get("attempts", 1) for one in found.front] == [1]
    rest = [one for one in found.trials if one.costs != found.front[0].costs]
    assert rest
    assert all(found.front[0].dominates(one) for one in rest)


def test_the_start_is_what_is_recommended() -> None:
    """Without settings of one's own the search begins with those of `recommended`."""
    from holdfast import Retry as AnyRetry
    from holdfast import recommended

    made, ours = pipeline(), recommended("lab")
    assert isinstance(made, Pipeline)
    for one, other in zip(made.policies, ours.policies, strict=True):
        if isinstance(one, CircuitBreaker):
            assert isinstance(other, CircuitBreaker)
            assert one.config == other.config
        elif isinstance(one, AnyRetry):
            assert isinstance(other, AnyRetry)
            assert one.config.attempts == other.config.attempts
            assert repr(one.config.budget) == repr(other.config.budget)
        else:
            assert repr(one) == repr(other)
    assert repr(pipeline(**START)) == repr(made)  # type: ignore[arg-type]  # as the search gives them


def test_every_fault_of_a_search_is_told() -> None:
    """Ranges that are none, unknown measures and no trials are reported at once."""
    with pytest.raises(ConfigurationError) as caught:
        tune(retrying, {"attempts": (3, 1)}, weights={"beauty": 1.0}, trials=0)
    assert [fault.path for fault in caught.value.faults] == ["trials", "space.attempts", "weights.beauty"]


def test_the_front_is_shown(short_file: Path) -> None:
    """The table begins with the start; the page draws every trial and needs nothing from elsewhere."""
    found = searched(short_file)
    text, page = table(found), html(found)
    assert re.fullmatch(r"\|\s+\| sum\s+\| recovery \| amplification \| open_for \|", text.splitlines()[0])
    assert re.search(r"^\| (best|front) ", text, re.MULTILINE)
    assert page.count("<circle") == len(found.trials)
    assert not re.search(r"https?:|src=|@import|url\(", page)


def test_the_command_tunes(
    short_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`holdfast lab tune` searches our pipeline, or a function's settings, and prints the front."""
    page = tmp_path / "front.html"
    options = ["--scenario", "outage", "--file", str(short_file), "--trials", "2"]
    assert main(["lab", "tune", *options, "--html", str(page)]) == 0
    out = capsys.readouterr().out
    assert "failure_rate" in out
    assert all(name in out for name in WEIGHTS)
    assert page.read_text(encoding="utf-8").count("<circle") == 2
    (tmp_path / "lab_tuned.py").write_text(
        "from holdfast import Retry\ndef payments(attempts=2):\n    return Retry(attempts=attempts)\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    own = ["--policy", "lab_tuned:payments", "--set", "attempts=1:3", "--weight", "amplification=1", "--json"]
    assert main(["lab", "tune", *options, *own]) == 0
    assert [set(one["costs"]) for one in json.loads(capsys.readouterr().out)] == [{"amplification"}]
    assert main(["lab", "tune", *options, "--set", "attempts=few"]) == 2
    assert main(["lab", "tune", *options, "--weight", "goodput"]) == 2
    err = capsys.readouterr().err
    assert "is no range" in err
    assert "is no weight" in err
