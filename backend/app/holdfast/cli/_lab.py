"""`holdfast lab`: run, compare, tune, scenarios."""

from __future__ import annotations

import os
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli import _show
from holdfast.cli._exit import Code, Stop
from holdfast.cli._target import find, place
from holdfast.infrastructure.resilience.policy import Policy as AnyPolicy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.lab.cost import Cost
    from holdfast.lab.experiment import Comparison, Run
    from holdfast.lab.scenarios import Scenario
    from holdfast.lab.tuning import Tuning

app = typer.Typer(help="See what a policy does in an outage, before the outage.", no_args_is_help=True)

_POLICY = (
    "A subject of the lab (none, holdfast, tenacity, ...), module:name of a policy or of a function that makes one, "
    "or an operation of the configuration."
)
Policy = Annotated[str, typer.Option(help=_POLICY)]
Policies = Annotated[list[str], typer.Option("--policy", help=f"{_POLICY} Give it several times.")]
Which = Annotated[str, typer.Option(help="Name of a scenario: holdfast lab scenarios lists them.")]
File = Annotated[
    Path | None, typer.Option("--file", help="A TOML file with scenarios of your own.", show_default=False)
]
Seeds = Annotated[int, typer.Option(min=1, help="How many runs, each with other random numbers.")]
Html = Annotated[
    Path | None, typer.Option("--html", help="Write a page with plots, too.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Sync = Annotated[bool, typer.Option("--sync", help="Call plain functions in threads, not coroutines.")]


@app.command()
def run(
    policy: Policy = "holdfast",
    scenario: Which = "stall",
    file: File = None,
    seeds: Seeds = 5,
    html: Html = None,
    sync: Sync = False,
    json: Json = False,
) -> int:
    """Run a policy through a scenario: a verdict in words, and a table. Exit code 1: it never recovers."""
    from holdfast import lab

    what = _scenario(scenario, file)
    who = _subject(policy, sync=sync)
    found = lab.run(who, what, seeds=seeds)
    _tell(found, (found,), html, json=json)
    if not json:
        _show.line(f"\nHealthy, it costs {_priced(lab.cost(who))}, measured here and now.")
    never = any(one.metastable for one in found.measures)
    return int(Code.WANTING if never else Code.FINE)


@app.command()
def compare(
    policy: Policies,
    scenario: Which = "stall",
    file: File = None,
    seeds: Seeds = 5,
    html: Html = None,
    sync: Sync = False,
    json: Json = False,
) -> int:
    """Run several policies through a scenario on the same seeds: verdicts, and one table."""
    from holdfast import lab

    what = _scenario(scenario, file)
    found = lab.compare([_subject(one, sync=sync) for one in policy], what, seeds=seeds)
    _tell(found, found.runs, html, json=json)
    return int(Code.FINE)


@app.command()
def tune(
    scenario: Annotated[list[str], typer.Option("--scenario", help="A scenario; give it several times.")] = [  # noqa: B006  # typer's way
        "stall",
        "spike",
    ],
    policy: Annotated[
        str | None,
        typer.Option(help="module:name of a function that makes a policy from settings; none: ours."),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="name=LOW:HIGH or name=A,B,C: what to search; needed with --policy."),
    ] = None,
    weight: Annotated[
        list[str] | None, typer.Option("--weight", help="measure=WEIGHT: what matters how much.")
    ] = None,
    file: File = None,
    trials: Annotated[int, typer.Option(min=1, help="How many settings to try: this bounds the time.")] = 24,
    seeds: Annotated[int, typer.Option(min=1, help="How many runs of each.")] = 1,
    seed: Annotated[
        int, typer.Option(help="Another seed searches elsewhere; the same one finds the same.")
    ] = 0,
    html: Html = None,
    json: Json = False,
) -> int:
    """Search settings for what matters, and show the Pareto front: what you can choose between."""
    from holdfast import lab
    from holdfast.lab import tuning

    space = _space(setting, own=policy is None)
    make = tuning.pipeline if policy is None else find(policy)
    if policy is not None:
        _try(policy, make, {})
        _try(policy, make, {name: values[0] for name, values in space.items()})
    found = lab.tune(
        make,
        space,
        scenarios=[_scenario(one, file) for one in scenario],
        weights=_weights(weight),
        trials=trials,
        seeds=seeds,
        seed=seed,
    )
    if json:
        _show.as_json(
            [{"settings": one.settings, "costs": one.costs, "sum": one.score} for one in found.front]
        )
    else:
        _show.line(lab.table(found))
    _write(html, found)
    return int(Code.FINE)


def _space(given: list[str] | None, *, own: bool) -> Any:
    from holdfast.lab import tuning

    if not given and own:
        return tuning.SPACE
    return dict(map(_range, given or []))


def _range(text: str) -> tuple[str, Any]:
    name, _, values = text.partition("=")
    low, colon, high = values.partition(":")
    try:
        if colon:
            return name, (_number(low), _number(high))
        return name, [None if one == "none" else _number(one) for one in values.split(",")]
    except ValueError:
        raise Stop(
            Code.WRONG_USE, f"--set {text!r} is no range: write name=LOW:HIGH or name=A,B,C in numbers"
        ) from None


def _number(text: str) -> float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def _weights(given: list[str] | None) -> Any:
    from holdfast.lab import tuning

    found: dict[str, float] = {}
    for text in given or []:
        name, _, value = text.partition("=")
        try:
            found[name] = _number(value)
        except ValueError:
            raise Stop(Code.WRONG_USE, f"--weight {text!r} is no weight: write measure=NUMBER") from None
    return found or tuning.WEIGHTS


@app.command("scenarios")
def show_scenarios(file: File = None, json: Json = False) -> int:
    """List the scenarios, the lab's or those of a file."""
    if json:
        _show.as_json([asdict(one) for one in _known(file).values()])
        return int(Code.FINE)
    for one in _known(file).values():
        _show.line(f"{one.name:16} {one.says}")
    return int(Code.FINE)


def _tell(found: Run | Comparison, runs: Sequence[Run], html: Path | None, *, json: bool) -> None:
    from holdfast import lab

    if json:
        _show.as_json([_facts(one) for one in runs])
    else:
        for one in runs:
            _show.line(one.verdict)
        _show.line("")
        _show.line(lab.table(found))
    _write(html, found)


def _priced(cost: Cost) -> str:
    return f"{cost.cpu * 1e6:.1f} µs of the processor a call and {cost.size:,.0f} bytes a client"


def _write(html: Path | None, found: Run | Comparison | Tuning) -> None:
    from holdfast import lab

    if html is None:
        return
    try:
        html.write_text(lab.html(found), encoding="utf-8")
    except OSError as error:
        raise Stop(Code.WRONG_USE, f"{html} cannot be written: {error.strerror}") from None


def _facts(run: Run) -> dict[str, Any]:
    """Return a run as JSON-able facts; what never happens is None."""
    from holdfast.lab.measures import NAMES

    measures = {name: asdict(run.interval(name)) for name in NAMES}
    return {
        "policy": run.policy,
        "scenario": run.scenario.name,
        "seeds": run.seeds,
        "verdict": run.verdict,
        "digests": run.digests,
        "measures": {
            name: {key: value if isfinite(value) else None for key, value in one.items()}
            for name, one in measures.items()
        },
    }


def _known(file: Path | None) -> dict[str, Scenario]:
    from holdfast import lab

    try:
        return lab.scenarios() if file is None else lab.load_scenarios(file)
    except OSError as error:
        raise Stop(Code.WRONG_USE, f"{file} cannot be read: {error.strerror}") from None


def _scenario(name: str, file: Path | None) -> Scenario:
    known = _known(file)
    if name not in known:
        raise Stop(Code.WRONG_USE, f"no scenario is called {name!r}; known: {', '.join(known)}")
    return known[name]


def _subject(name: str, *, sync: bool) -> Any:
    """Return what a name stands for: a target, a subject of the lab, or an operation as configured."""
    from holdfast import lab

    if ":" in name:
        found = find(name)
        if not isinstance(found, AnyPolicy):
            _try(name, found, {})
        return lab.subject(found, name=name.partition(":")[2], asynchronous=not sync)
    if name in lab.subjects():
        return f"{name}-sync" if sync and f"{name}-sync" in lab.subjects() else name
    return _configured(name, sync=sync)


def _try(name: str, make: Any, settings: dict[str, Any]) -> None:
    """Make a policy once before anything is simulated, and say what is wrong with the function that is to make it."""
    if not callable(make):
        raise Stop(Code.WRONG_USE, f"{make!r} is no policy: give one, or a function that makes one")
    given = ", ".join(f"{key}={value!r}" for key, value in settings.items())
    try:
        made = make(**settings)
    except Exception as error:
        said = f"{type(error).__name__}: {error}{place(error)}"
        raise Stop(Code.WRONG_USE, f"{name}({given}) makes no policy: {said}") from error
    if not isinstance(made, AnyPolicy):
        raise Stop(Code.WRONG_USE, f"{name}({given}) made {made!r}: have it return a policy")


def _configured(name: str, *, sync: bool) -> Any:
    from holdfast import lab
    from holdfast.infrastructure.resilience._environment import is_configured
    from holdfast.infrastructure.resilience.config import load

    if not is_configured(os.environ):
        known = ", ".join(lab.subjects())
        raise Stop(
            Code.WRONG_USE,
            f"nothing is called {name!r} and there is no configuration: give module:name, or one of {known}",
        )
    configuration = load(operations=())
    return lab.subject(lambda: configuration.pipeline(name), name=name, asynchronous=not sync)
