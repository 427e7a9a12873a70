"""Circuit breakers over HTTP: look at them, and set them by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, Path, Request

from holdfast.api.internal.resilience import _http, _models
from holdfast.api.internal.resilience._guard import client
from holdfast.api.internal.resilience.problems import _problem as problem
from holdfast.infrastructure.telemetry.inventory import _breakers as breakers

if TYPE_CHECKING:
    from holdfast.api.internal.resilience._context import Context
    from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker
    from holdfast.infrastructure.telemetry.inventory import PolicyState
    from holdfast.infrastructure.telemetry.inventory import _Found as Found

ACTIONS = {
    "reset": "Close a breaker and forget its history and every override.",
    "isolate": "Refuse every call until the breaker is released as often.",
    "release": "Undo one isolation; the last one closes the breaker.",
    "disable": "Admit every call and record nothing, until a reset.",
    "shadow": "Record and report, but never refuse, until a reset.",
}

_HOUR = 3600.0
_MOST = 200

Name = Annotated[str, Path(description="The breaker's name; slashes may stand as they are.")]
_Reason = Annotated[_models.Reason, Depends(_http.parsed(_models.Reason))]


class Breakers:
    """The routes of circuit breakers."""

    def __init__(self, context: Context) -> None:
        self._context = context
        context.reads(
            "/circuit-breakers",
            self.list_circuit_breakers,
            _models.BreakerPage,
            422,
            quick={"page": _http.FIRST_PAGE},
        )
        context.reads(
            "/circuit-breakers/{name:path}",
            self.get_circuit_breaker,
            _models.BreakerDetail,
            404,
            422,
            quick={},
        )
        for action, said in ACTIONS.items():
            context.operates(
                f"/circuit-breakers/{{name:path}}/{action}",
                self._action(action),
                _models.BreakerDetail,
                _models.Reason,
                404,
                name=f"{action}_circuit_breaker",
                description=said,
            )

    async def list_circuit_breakers(self, page: Annotated[_http.Page, Depends(_http.page)]) -> dict[str, Any]:
        """Return the circuit breakers by name."""
        found = await self._context.look(lambda: breakers(self._context.registry))
        part = page.of(found)
        return {**part, "items": [summary(one.state()) for one in part["items"]]}

    async def get_circuit_breaker(self, name: Name) -> dict[str, Any]:
        """Return a circuit breaker with its settings and its states of the last hour."""
        return await self._context.look(lambda: self._detail(self._find(name)))

    def _action(self, action: str) -> Any:
        def act(name: Name, request: Request, body: _Reason) -> dict[str, Any]:
            return self._operate(action, name, client(request), body.reason)

        return act

    def _operate(self, action: str, name: str, actor: str, reason: str | None) -> dict[str, Any]:
        breaker = self._find(name).thing
        before = breaker.state.value
        getattr(breaker, action)()
        self._context.operations.live.record(
            actor=actor,
            action=action,
            target=name,
            before={"state": before},
            after={"state": breaker.state.value},
            reason=reason,
        )
        return self._detail(self._find(name))

    def _find(self, name: str) -> Found:
        for one in breakers(self._context.registry):
            if one.called == name:
                return one
        raise problem(404, "There is no circuit breaker of that name.")

    def _detail(self, found: Found) -> dict[str, Any]:
        timeline = self._context.operations.monitor.states(found.called, seconds=_HOUR)
        return {
            **summary(found.state()),
            "config": _settings(found.thing),
            "timeline": [{"at": at, "state": since} for at, since in timeline[-_MOST:]],
        }


def summary(state: PolicyState) -> dict[str, Any]:
    """Return a breaker in short."""
    facts = state.facts
    return {
        "name": state.name,
        "state": facts["state"],
        "operations": list(state.operations)[:_MOST],
        "seconds_in_state": facts["seconds_in_state"],
        "retry_after": facts["retry_after"],
        "rejected": facts["rejected"],
        "counts": {name: facts[name] for name in _models.BreakerCounts.model_fields},
    }


def _settings(breaker: CircuitBreaker) -> dict[str, Any]:
    config = breaker.config
    fields = _models.BreakerSettings.model_fields
    return {**{name: getattr(config, name) for name in fields}, "window": repr(config.window)}
