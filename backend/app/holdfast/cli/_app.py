"""The commands."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.api.internal.resilience._benchmark_worker import KINDS, measure
from holdfast.cli import _config, _jobs, _lab, _runs, _show
from holdfast.cli._exit import Code, Leave, Stop
from holdfast.cli._remote import DEFAULT_URL, Remote, segment
from holdfast.cli._target import find, load
from holdfast.infrastructure.resilience._compile import stack_of
from holdfast.infrastructure.resilience.pipeline import explain as explain_policies
from holdfast.infrastructure.resilience.presets import PRESETS, STRATEGIES, TEMPLATES, recommend
from holdfast.infrastructure.resilience.registry import registry

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from holdfast.infrastructure.resilience.pipeline import Explanation
    from holdfast.infrastructure.resilience.presets import Preset, Strategy, Template

app = typer.Typer(
    name="holdfast",
    help="Calls that hold and jobs that finish: look at them, and change them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(_config.app, name="config")
app.add_typer(_jobs.app, name="jobs")
app.add_typer(_runs.app, name="runs")
app.add_typer(_lab.app, name="lab")

Url = Annotated[str, typer.Option(envvar="HOLDFAST_URL", help="Address of the service's internal API.")]
Key = Annotated[
    str | None, typer.Option(envvar="HOLDFAST_API_KEY", help="API key.", show_default=False, show_envvar=True)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Action = Annotated[
    str | None, typer.Argument(help="reset, isolate, release, disable or shadow; without one: show.")
]
Facts = dict[str, Any]
ACTIONS = ("reset", "isolate", "release", "disable", "shadow")


def run(arguments: Sequence[str] | None) -> int:
    """Run the command line and return its exit code."""
    command = typer.main.get_command(app)
    given = None if arguments is None else list(arguments)
    return ended(lambda: command.main(args=given, prog_name="holdfast", standalone_mode=False))


def ended(command: Callable[[], object]) -> int:
    """Call a command and return its exit code; what went wrong is said on standard error."""
    try:
        result = command()
    except Stop as stop:
        print(f"error: {stop}", file=sys.stderr)
        return int(stop.code)
    except Leave as leave:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(leave.code)
    except typer.TyperException as error:
        said = _misuse(error)
        print(said if said.startswith("Usage: ") else f"error: {said}", file=sys.stderr)
        return int(Code.WRONG_USE)
    except (typer.Abort, KeyboardInterrupt):
        print("error: stopped before anything was done", file=sys.stderr)
        return int(Code.WANTING)
    return result if isinstance(result, int) else int(Code.FINE)


def _misuse(error: typer.TyperException) -> str:
    """Return what is wrong with how a command was called: which option, its value if that is known, and the remedy."""
    hint = getattr(getattr(error, "param", None), "get_error_hint", None)
    if not isinstance(error, typer.BadParameter) or hint is None or not str(error.message):
        return error.format_message()
    # What pydantic refused, and what it was given.
    faults = getattr(error.__cause__, "errors", list[Facts])()
    given = f" is {faults[0]['input']!r}" if faults else ""
    option: str = hint().strip("'")
    return f"{option}{given}: {error.message}"


def _show_version(wanted: bool) -> None:
    if wanted:
        _show.line(f"holdfast {version('holdfast')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[  # its callback acts
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Calls that hold and jobs that finish: look at them, and change them."""


@app.command()
def serve(
    module: Annotated[
        str | None,
        typer.Argument(metavar="[APP]", help="Module (module or module:name) with your operations."),
    ] = None,
    host: Annotated[str, typer.Option(help="Where to listen; others than loopback need keys.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8642,
    store: Annotated[
        str | None,
        typer.Option(envvar="HOLDFAST_STORE", help="Serve its jobs too: sqlite:///FILE or postgresql://…"),
    ] = None,
    handler: Annotated[
        list[str] | None,
        typer.Option(metavar="MODULE:FUNCTION", help="What clients may submit jobs for; as often as needed."),
    ] = None,
) -> None:
    """Serve the internal API and the dashboard."""
    from holdfast.api.internal.resilience.app import serve as serve_api
    from holdfast.services.jobs.errors import HandlerNotFoundError

    if module is not None:
        load(module.partition(":")[0])
    try:
        serve_api(host=host, port=port, app=module, store=store, handlers=handler or ())
    except HandlerNotFoundError as error:
        raise Stop(Code.WRONG_USE, f"--handler: {error}") from None
    except KeyboardInterrupt:  # before the server listens to signals
        pass


@app.command()
def status(url: Url = DEFAULT_URL, key: Key = None, json: Json = False) -> int:
    """Show how a service is. Exit code 1: a circuit is open or an alert is active."""
    with Remote(url, key) as remote:
        snapshot = remote.get("/snapshot")
    unwell = [one["name"] for one in snapshot["breakers"] if one["state"] in {"open", "isolated"}]
    active = [one for one in snapshot["alerts"] if one["until"] is None]
    if json:
        _show.as_json(snapshot)
    else:
        _show_status(snapshot, active)
    return int(Code.WANTING if unwell or active else Code.FINE)


def _show_status(snapshot: dict[str, list[Facts]], active: list[Facts]) -> None:
    _show_breakers(snapshot["breakers"])
    _show.rows(
        "Operations",
        ("operation", "calls", "failed", "refused", "degraded", "retried", "p50", "p95"),
        [
            (
                one["operation"],
                one["calls"],
                _show.percent(one["failure_rate"]),
                _show.percent(one["rejection_rate"]),
                _show.percent(one["degraded_rate"]),
                _show.percent(one["retry_rate"]),
                _show.milliseconds(one["p50"]),
                _show.milliseconds(one["p95"]),
            )
            for one in snapshot["usage"]
        ],
    )
    _show.rows("Alerts", ("severity", "what"), [(one["severity"], one["message"]) for one in active])


def _show_breakers(breakers: list[Facts]) -> None:
    _show.rows(
        "Circuit breakers",
        ("name", "state", "refused", "retry after"),
        [(one["name"], one["state"], one["rejected"], one["retry_after"]) for one in breakers],
    )


@app.command()
def explain(
    target: Annotated[str, typer.Argument(help="module:function, module:pipeline, or with --app a name.")],
    module: Annotated[str | None, typer.Option("--app", help="Module that defines the names.")] = None,
    strict: Annotated[bool, typer.Option(help="Exit code 1 if there are warnings.")] = False,
    mermaid: Annotated[bool, typer.Option(help="Print a Mermaid chart.")] = False,
    json: Json = False,
) -> int:
    """Say what the policies of a function, a pipeline or a name guarantee."""
    if module is not None:
        load(module.partition(":")[0])
    if ":" in target:
        explanation = _explained(target)
    else:
        try:
            explanation = registry.get(target).explain()
        except LookupError as error:
            raise Stop(Code.WRONG_USE, f"{error.args[0]}, or give module:name") from None
    if json:
        _show.as_json(explanation.as_dict())
    else:
        _show.line(explanation.mermaid() if mermaid else str(explanation))
    return int(Code.WANTING if strict and explanation.warnings else Code.FINE)


def _explained(target: str) -> Explanation:
    try:
        return explain_policies(find(target))
    except TypeError as error:
        raise Stop(Code.WRONG_USE, str(error)) from None


def _kinds(target: str) -> list[str]:
    """Return the kinds of the policies of a function, a policy or a pipeline, outermost first."""
    _explained(target)  # says what is no target
    found = find(target)
    stack = stack_of(getattr(found, "__func__", found))
    parts = [found] if stack is None else stack.parts
    current = [policy for part in parts for policy in part._current()]
    return [type(policy).__name__ for part in current for policy in getattr(part, "policies", [part])]


@app.command()
def bench(
    target: Annotated[
        str | None,
        typer.Argument(help="module:function or module:pipeline; by default timeout, retry, breaker."),
    ] = None,
    json: Json = False,
) -> None:
    """Measure here what policies of these kinds cost a call that succeeds."""
    kinds = ["Timeout", "Retry", "CircuitBreaker"] if target is None else _kinds(target)
    measured = [kind for kind in kinds if kind in KINDS]
    if not measured:
        raise Stop(Code.WRONG_USE, f"{target} has nothing to measure; measured are {', '.join(KINDS)}")
    results = measure(measured)
    if json:
        _show.as_json(
            {"policies": measured, "skipped": [k for k in kinds if k not in KINDS], "results": results}
        )
        return
    _show.rows(
        " > ".join(measured),
        ("mode", "bare ns", "call ns", "added ns", "ratio"),
        [[one[key] for key in ("mode", "bare_ns", "call_ns", "added_ns", "ratio")] for one in results],
    )
    for kind in kinds:
        if kind not in KINDS:
            _show.line(f"{kind} is left out: it does not call through once and at once")


@app.command()
def presets(
    name: Annotated[str | None, typer.Argument(help="One of them, with its numbers.")] = None,
    environment: Annotated[
        str | None, typer.Option("--recommend", metavar="ENVIRONMENT", help="Which one suits an environment.")
    ] = None,
    json: Json = False,
) -> None:
    """List presets, strategies and templates, or say which preset suits an environment."""
    if environment is not None:
        _show_recommendation(environment, as_json=json)
    elif name is not None:
        _show_preset(name, as_json=json)
    elif json:
        tables: dict[str, Mapping[str, Strategy | Preset | Template]]
        tables = {"presets": PRESETS, "strategies": STRATEGIES, "templates": TEMPLATES}
        _show.as_json(
            {kind: {key: one.as_dict() for key, one in table.items()} for kind, table in tables.items()}
        )
    else:
        _show_presets()


def _show_recommendation(environment: str, *, as_json: bool) -> None:
    found = recommend(environment)
    if as_json:
        _show.as_json(found.as_dict())
    else:
        _show.line(f"{found.preset} ({_show.percent(found.confidence)} sure): {found.reason}")


def _show_preset(name: str, *, as_json: bool) -> None:
    table: dict[str, Strategy | Preset | Template] = {**TEMPLATES, **STRATEGIES, **PRESETS}
    if name not in table:
        raise Stop(Code.WRONG_USE, f"{name!r} is no preset, strategy or template: {', '.join(sorted(table))}")
    if as_json:
        _show.as_json(table[name].as_dict())
    else:
        _show.facts(name, table[name].as_dict())


def _show_presets() -> None:
    _show.rows(
        "Presets",
        ("name", "attempts", "threshold", "recovery", "strategy", "overrides"),
        [
            (p.name, p.attempts, p.threshold, p.recovery, p.strategy, dict(p.overrides))
            for p in PRESETS.values()
        ],
    )
    _show.rows(
        "Strategies",
        ("name", "attempts", "deadline", "backoff", "jitter", "threshold", "recovery"),
        [
            (
                s.name,
                s.attempts,
                s.deadline,
                f"{s.multiplier:g} / {s.minimum:g} / {s.maximum:g}",
                s.jitter,
                s.threshold,
                s.recovery,
            )
            for s in STRATEGIES.values()
        ],
    )
    _show.rows("Templates", ("name", "settings"), [(t.name, dict(t.settings)) for t in TEMPLATES.values()])


@app.command()
def breakers(
    name: Annotated[str | None, typer.Argument(help="One of them.")] = None,
    action: Action = None,
    reason: Annotated[str | None, typer.Option(help="Why, for the audit trail.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
    json: Json = False,
) -> None:
    """List a service's circuit breakers, show one, or change its state."""
    if action is not None and action not in ACTIONS:
        raise Stop(Code.WRONG_USE, f"{action!r} is no action: {', '.join(ACTIONS)}")
    with Remote(url, key) as remote:
        if name is None:
            _list_breakers(remote, as_json=json)
            return
        path = f"/circuit-breakers/{segment(name)}"
        if action is None:
            detail = remote.get(path)
        else:
            if not yes:
                typer.confirm(f"{action} {name} of {url}?", abort=True, err=True)
            detail = remote.post(f"{path}/{action}", {"reason": reason})
    if json:
        _show.as_json(detail)
    else:
        _show.facts(name, detail)


def _list_breakers(remote: Remote, *, as_json: bool) -> None:
    found: list[Facts] = []
    while True:
        page = remote.get("/circuit-breakers", offset=len(found), limit=200)
        found += page["items"]
        if not page["items"] or len(found) >= page["total"]:
            break
    if as_json:
        _show.as_json(found)
    else:
        _show_breakers(found)
