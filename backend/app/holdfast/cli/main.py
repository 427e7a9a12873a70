"""The `holdfast` command: serve, status, explain, config, presets, breakers, bench, jobs, runs, lab; exit codes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from holdfast.infrastructure.resilience.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

_NEEDED = {
    "typer": "cli",
    "rich": "cli",
    "fastapi": "api",
    "uvicorn": "api",
    "pydantic": "config",
    "sqlalchemy": "jobs",
    "alembic": "jobs",
    "psycopg": "postgres",
    "openpyxl": "excel",
    "procrastinate": "procrastinate",
    "celery": "celery",
    "kombu": "celery",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 0 fine, 1 found wanting, 2 wrong use, 3 not reachable, 4 not allowed.

    Of jobs also 5: a person has to say yes, 6: not ended yet, 130 and 143: stopped by a signal.
    """
    try:
        from holdfast.cli._app import run

        return run(arguments)
    except ModuleNotFoundError as error:
        extra = _NEEDED.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        return _fail(f"{error.name} is not installed; run: pip install 'holdfast[{extra}]'")
    except ConfigurationError as error:
        return _fail(str(error))


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2
