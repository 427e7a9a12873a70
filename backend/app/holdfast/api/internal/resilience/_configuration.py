"""The configuration over HTTP: read, check, change, and see who changed what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, Query, Request

from holdfast.api.internal.resilience import _http, _models
from holdfast.api.internal.resilience._guard import client
from holdfast.api.internal.resilience.problems import _problem as problem
from holdfast.infrastructure.resilience.config import validate
from holdfast.infrastructure.resilience.presets import PRESETS, STRATEGIES, TEMPLATES, recommend

if TYPE_CHECKING:
    from holdfast.api.internal.resilience._context import Context
    from holdfast.infrastructure.resilience.presets import Preset

_Page = Annotated[_http.Page, Depends(_http.page)]
_Apply = Annotated[_models.Apply, Depends(_http.parsed(_models.Apply))]
_Reason = Annotated[_models.Reason, Depends(_http.parsed(_models.Reason))]
_Raw = Annotated[bytes, Depends(_http.raw)]
_Text = Annotated[str | None, Query(max_length=200)]

_FARTHEST = 2**53
_BODY_FAULTS = (401, 403, 408, 413, 415, 422)


class Configurations:
    """The routes of the configuration."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._live = context.operations.live
        self._add_reading()
        self._add_checking()
        self._add_operating()

    def _add_reading(self) -> None:
        get = self._context.reads
        get("/config", self.get_configuration, _models.CurrentConfiguration, quick={})
        get("/config/presets", self.list_presets, _models.PresetPage, 422, quick={"page": _http.FIRST_PAGE})
        get("/config/presets/{name:path}", self.get_preset, _models.PresetDetail, 404, 422)
        get("/config/templates", self.list_templates, _models.TemplatePage, 422)
        get("/config/operations", self.list_operations, _models.OperationPage, 422)
        get("/config/operations/{name:path}", self.get_operation, _models.OperationNumbers, 404, 422)
        get("/config/recommend", self.recommend_preset, _models.Recommended, 422)
        get("/config/audit", self.list_changes, _models.Audit, 422)

    def _add_checking(self) -> None:
        self._context.reading.post(
            "/config/validate",
            response_model=_models.Checked,
            responses=_http.answers(*_BODY_FAULTS, 429),
            openapi_extra=_http.facts_of("read", body={"description": "A custom configuration."}),
        )(self.validate_configuration)

    def _add_operating(self) -> None:
        add = self._context.operates
        add("/config/apply", self.apply_configuration, _models.Changed, _models.Apply)
        add("/config/withdraw", self.withdraw_configuration, _models.Changed, _models.Reason)
        add("/config/reload", self.reload_configuration, _models.Changed, _models.Reason)

    async def get_configuration(self) -> dict[str, Any]:
        """Return the configuration as it is now."""
        return {**self._live.current.as_dict(), "version": self._live.version}

    async def list_presets(self, page: _Page) -> dict[str, Any]:
        """Return the presets by name."""
        return page.of([PRESETS[name] for name in sorted(PRESETS)])

    async def get_preset(self, name: str) -> dict[str, Any]:
        """Return a preset with the numbers of the strategies that it uses."""
        preset = PRESETS.get(name)
        if preset is None:
            raise problem(404, f"There is no preset of that name; there are: {', '.join(sorted(PRESETS))}.")
        return _preset(preset)

    async def list_templates(self, page: _Page) -> dict[str, Any]:
        """Return the starting points for a custom configuration, by name."""
        items = [TEMPLATES[name] for name in sorted(TEMPLATES)]
        return page.of(items)

    def list_operations(self, page: _Page) -> dict[str, Any]:
        """Return the registered operations by name, with what each one gets."""
        part = page.of(self._live.operations)
        return {**part, "items": [self._live.operation(name) for name in part["items"]]}

    def get_operation(self, name: str) -> Any:
        """Return what a registered operation gets, and where each number comes from."""
        try:
            return self._live.operation(name)
        except LookupError:
            raise problem(404, "There is no registered operation of that name.") from None

    async def recommend_preset(self, environment: Annotated[str, Query(min_length=1, max_length=200)]) -> Any:
        """Return the preset that suits an environment's name."""
        return recommend(environment)

    def list_changes(
        self,
        actor: _Text = None,
        action: _Text = None,
        before: Annotated[int | None, Query(ge=1, le=_FARTHEST, description="For the next page.")] = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> dict[str, Any]:
        """Return who changed what when, newest first."""
        found = self._live.audit(actor=actor, action=action, before=before, limit=limit + 1)
        shown = found[:limit]
        more = shown[-1].number if len(found) > limit else None
        return {"items": [one.as_dict() for one in shown], "next": more}

    def validate_configuration(self, request: Request, body: _Raw) -> dict[str, Any]:
        """Check a custom configuration; nothing changes. 60 a minute and 1,000 an hour for each key."""
        self._context.validations.admit(client(request))
        preset = self._live.current.preset
        return validate(body, operations=self._live.operations, preset=preset).as_dict()

    def apply_configuration(self, request: Request, body: _Apply) -> dict[str, Any]:
        """Change to a preset, apply a custom configuration, or both; either all of it holds, or nothing changes."""
        live, actor, reason = self._live, client(request), body.reason
        if body.settings is not None:
            change = live.apply(body.settings, preset=body.preset, actor=actor, reason=reason)
        elif body.preset is not None:
            change = live.use_preset(body.preset, actor=actor, reason=reason)
        else:
            raise problem(422, "The request has 1 fault.", errors=[_NEITHER])
        return change.as_dict()

    def withdraw_configuration(self, request: Request, body: _Reason) -> dict[str, Any]:
        """Drop what was applied and the preset that was chosen here: file and environment hold again."""
        return self._live.withdraw(actor=client(request), reason=body.reason).as_dict()

    def reload_configuration(self, request: Request, body: _Reason) -> dict[str, Any]:
        """Read file and environment again."""
        return self._live.reload(actor=client(request), reason=body.reason).as_dict()


_NEITHER = {"path": "body", "problem": "has neither settings nor preset"}


def _preset(preset: Preset) -> dict[str, Any]:
    names = sorted({preset.strategy, *preset.overrides.values()})
    facts = {name: getattr(preset, name) for name in _models.PresetSummary.model_fields}
    return {**facts, "strategies": [STRATEGIES[name] for name in names]}
