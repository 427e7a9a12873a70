"""A configuration that changes while calls run: reload, apply, audit trail; a bad one changes nothing."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from holdfast.infrastructure.resilience.clock import Clock
from holdfast.infrastructure.resilience.config import Configuration, OperationSettings
from holdfast.infrastructure.resilience.registry import Registry

class Change:
    """One line of the audit trail: who changed what when, what was before and after; `error` if it was refused.

    `at` is a Unix time; `changed` has what differs, by path, before and after.
    """

    number: int
    at: float
    actor: str
    action: str
    reason: str | None
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    changed: Mapping[str, tuple[object, object]]
    error: str | None
    def __init__(
        self,
        *,
        number: int,
        at: float,
        actor: str,
        action: str,
        reason: str | None = None,
        before: Mapping[str, Any],
        after: Mapping[str, Any],
        changed: Mapping[str, tuple[object, object]],
        error: str | None = None,
    ) -> None: ...
    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-able facts; `at` is a Unix time."""

    def __eq__(self, other: object) -> bool: ...

class LiveConfiguration:
    """What the names of a registry mean, by configuration; calls that run go on, breakers and budgets keep their state.

    Names defined in code stay as they are. While no source says anything, only registered operations follow it. Of
    several for one registry the newest counts. Safe to share between threads and tasks.
    """

    def __init__(
        self,
        registry: Registry = ...,
        *,
        file: str | Path | None = None,
        environ: Mapping[str, str] | None = None,
        audit: int = 1000,
        audit_file: str | Path | None = None,
        clock: Clock | None = None,
    ) -> None: ...
    @property
    def registry(self) -> Registry:
        """The registry whose names it gives a meaning."""

    @property
    def current(self) -> Configuration:
        """The configuration now."""

    @property
    def version(self) -> int:
        """How often it changed."""

    @property
    def operations(self) -> Sequence[str]:
        """The registered operations and the names in use that code did not define, sorted."""

    def operation(self, name: str) -> OperationSettings:
        """Return what an operation gets, by configuration and code. LookupError for one that is not registered."""

    def register(
        self,
        operation: str,
        *,
        strategy: str | None = None,
        attempts: int | None = None,
        deadline: float | None = None,
        threshold: int | None = None,
        recovery: float | None = None,
        half_open_calls: int | None = None,
    ) -> None:
        """Register an operation, so that overrides may name it; what is given here is what code says, which wins.

        `attempts` 1-20, `deadline` 0.1-3600 s, `threshold` 1-100, `recovery` 1-3600 s, `half_open_calls` 1-10;
        ConfigurationError otherwise.
        """

    def apply(
        self,
        settings: str | bytes | Mapping[str, Any],
        *,
        actor: str,
        reason: str | None = None,
        preset: str | None = None,
    ) -> Change:
        """Apply a custom configuration on top of preset, file and environment, in the place of the one applied before.

        With `preset`, change to that too. ConfigurationError: nothing changed.
        """

    def use_preset(self, preset: str, *, actor: str, reason: str | None = None) -> Change:
        """Change to a preset; a custom configuration applied before is dropped. ConfigurationError if it is unknown."""

    def withdraw(self, *, actor: str, reason: str | None = None) -> Change:
        """Drop what was applied and the preset that was chosen while running: file and environment hold again."""

    def reload(self, *, actor: str, reason: str | None = None) -> Change:
        """Read file and environment again; what was applied stays on top. ConfigurationError: nothing changed."""

    def record(
        self,
        *,
        actor: str,
        action: str,
        target: str,
        before: object,
        after: object,
        reason: str | None = None,
    ) -> Change:
        """Write a change that something else made, such as a breaker isolated by hand, into the audit trail."""

    def audit(
        self,
        *,
        actor: str | None = None,
        action: str | None = None,
        before: int | None = None,
        limit: int = 50,
    ) -> list[Change]:
        """Return changes, newest first; `before` is the number of a change, for the next page."""

    def subscribe(self, callback: Callable[[Change], object]) -> Callable[[], None]:
        """Call `callback` after every line of the audit trail; what is returned ends that."""

    def watch(self, *, interval: float = 1.0) -> Callable[[], None]:
        """Reload in a thread when the file changes, as actor `file`; what is returned ends that.

        The file is read once it was the same for `interval` seconds. ConfigurationError where there is no file.
        """

    def on_signal(self, number: int | None = None) -> None:
        """Reload at a signal (by default SIGHUP), as actor `signal`. ValueError outside the main thread."""

    def export_state(self) -> dict[str, Any]:
        """Return what the registry's breakers and budgets know, as JSON-able facts that another process can import."""

    def import_state(self, state: Mapping[str, Any]) -> None:
        """Take over exported state; names that nobody has used yet find theirs when they are first called.

        Wall time since the export counts as time that passed. ValueError if malformed; then nothing is taken.
        """

    def close(self) -> None:
        """End every watch and let go of the registry; its names keep what they mean now."""

def live() -> LiveConfiguration:
    """Return the process's own live configuration, over the common registry and the process's environment."""
