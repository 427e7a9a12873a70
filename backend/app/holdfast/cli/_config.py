"""`holdfast config`: validate, show, apply."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli import _show
from holdfast.cli._exit import Code, Stop
from holdfast.cli._remote import DEFAULT_URL, Remote
from holdfast.infrastructure.resilience import _sources
from holdfast.infrastructure.resilience.config import load, validate

if TYPE_CHECKING:
    from holdfast.infrastructure.resilience.config import Validation

app = typer.Typer(help="Check, show and change what operations get.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
File = Annotated[str, typer.Argument(help="A JSON or TOML file; - for JSON on standard input.")]


@app.command("validate")
def validate_file(file: File, json: Json = False) -> int:
    """Check a configuration file: every fault at once. Exit code 1: there are some."""
    found = _sources.validate_file(_read(file))
    if json:
        _show.as_json(found.as_dict())
    else:
        _show_validation(found, file)
    return int(Code.FINE if found.valid else Code.WANTING)


def _show_validation(found: Validation, file: str) -> None:
    for kind, faults in (("error", found.faults), ("warning", found.warnings)):
        for fault in faults:
            _show.line(f"{kind}: {fault}")
    if found.template is not None:
        _show.line(f"It is close to the template {found.template!r}.")
    if found.valid:
        _show.line(f"{file}: fine")


def _read(file: str) -> bytes | dict[str, Any]:
    try:
        text = sys.stdin.buffer.read(1_000_000) if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise Stop(Code.WRONG_USE, f"{file} cannot be read: {error.strerror}") from None
    if not file.endswith(".toml"):
        return text
    try:
        return tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Stop(Code.WANTING, f"{file} is no TOML: {error}") from None


@app.command()
def show(
    operation: Annotated[str | None, typer.Argument(help="What this operation gets.")] = None,
    file: Annotated[Path | None, typer.Option(help="Configuration file, below the environment.")] = None,
    preset: Annotated[str | None, typer.Option(help="Preset instead of the environment's.")] = None,
    url: Annotated[
        str | None, typer.Option(envvar="HOLDFAST_URL", help="Ask a running service instead.")
    ] = None,
    key: Annotated[str | None, typer.Option(envvar="HOLDFAST_API_KEY", help="API key.")] = None,
    json: Json = False,
) -> None:
    """Show the configuration, with the source of every number, here or of a running service."""
    if url is not None:
        with Remote(url, key) as remote:
            facts = remote.get("/config" if operation is None else f"/config/operations/{operation}")
    else:
        here = load(preset=preset, file=file)
        facts = here.as_dict() if operation is None else here.operation(operation).as_dict()
    if json:
        _show.as_json(facts)
    else:
        _show.facts(operation or "configuration", facts)


@app.command()
def apply(
    file: Annotated[
        str | None, typer.Argument(help="A JSON or TOML file; - for JSON on standard input.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Change to a preset.")] = None,
    reload: Annotated[bool, typer.Option("--reload", help="Read file and environment again.")] = False,
    reason: Annotated[str | None, typer.Option(help="Why, for the audit trail.")] = None,
    url: Annotated[str, typer.Option(envvar="HOLDFAST_URL", help="Address of the service.")] = DEFAULT_URL,
    key: Annotated[str | None, typer.Option(envvar="HOLDFAST_API_KEY", help="API key.")] = None,
    json: Json = False,
) -> None:
    """Change the configuration of a running service; a bad one changes nothing."""
    if (file is not None) + (preset is not None) + reload != 1:
        raise Stop(Code.WRONG_USE, "give one of them: a file, --preset or --reload")
    with Remote(url, key) as remote:
        if reload:
            change = remote.post("/config/reload", {"reason": reason})
        else:
            settings = None if file is None else _settings(file)
            change = remote.post("/config/apply", {"settings": settings, "preset": preset, "reason": reason})
    if json:
        _show.as_json(change)
    else:
        _show.rows("Changed", ("what", "before", "after"), [(k, *v) for k, v in change["changed"].items()])


def _settings(file: str) -> dict[str, Any]:
    found = validate(_read(file))
    if not found.valid:
        _show_validation(found, file)
        raise Stop(Code.WANTING, f"{file} has faults; nothing was changed")
    return dict(found.settings)
