"""Where a configuration comes from: preset, file, environment and code, read as a whole and merged."""

from __future__ import annotations

import os
from pathlib import Path

from holdfast.infrastructure.resilience import _environment
from holdfast.infrastructure.resilience.config import Configuration, Fault, Validation, validate
from holdfast.infrastructure.resilience.errors import ConfigurationError
from holdfast.infrastructure.resilience.presets import PRESETS, STRATEGIES, recommend, suggest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

_SWITCH = {
    "true": True,
    "1": True,
    "yes": True,
    "on": True,
    "false": False,
    "0": False,
    "no": False,
    "off": False,
}

# What a file may say beside the fields of a custom configuration.
_ALSO = ("preset", "enabled")


class Reader:
    """Reads each source in turn and collects the faults of all."""

    def __init__(self, operations: Sequence[str] = ()) -> None:
        self._operations = operations
        self._faults: list[Fault] = []
        self._warnings: list[Fault] = []
        self._preset = "simple"
        self._enabled = True
        self._fields: dict[str, Any] = {}
        self._overrides: dict[str, str] = {}
        self._sources = {"preset": "preset", "enabled": "preset"}
        self._legacy: set[str] = set()
        # The fields of `custom`, checked.
        self.applied: Mapping[str, Any] | None = None

    def read(
        self,
        *,
        preset: str | None,
        file: str | Path | None,
        environ: Mapping[str, str] | None,
        custom: str | bytes | Mapping[str, Any] | None,
    ) -> Configuration:
        """Return the configuration. ConfigurationError with every fault."""
        variables = os.environ if environ is None else environ
        file = file or variables.get(_environment.FILE) or None
        if file is not None:
            self._read_file(Path(file))
        self._read_environment(variables)
        if custom is not None:
            self.applied = self._take_custom(custom, "", "applied", self._operations)
        if preset is not None:
            self._take_preset(preset, "preset", "applied")
        if self._faults:
            raise ConfigurationError("configuration", tuple(self._faults))
        return self._made()

    def _read_file(self, path: Path) -> None:
        from holdfast.infrastructure.resilience import _documents

        try:
            with path.open("rb") as opened:
                data = opened.read(_documents.FILE_BYTES + 1)
        except OSError as error:
            problem = f"cannot be read: {error.strerror}"
            self._faults.append(Fault(path.name, str(path), problem, "a readable file"))
            return
        fields, faults = (
            _documents.read_toml(data)
            if path.suffix.lower() == ".toml"
            else _documents.read_json(data, file=True)
        )
        faults = _with_faults_of_file(fields, faults)
        self._faults += [fault._within(path.name) for fault in faults]
        if "preset" in fields:
            self._take_preset(fields["preset"], f"{path.name}.preset", "file")
        if not faults:
            self._take(fields, "file")

    def _read_environment(self, variables: Mapping[str, str]) -> None:
        legacy = self._read_legacy(variables)
        self._take(legacy, "environment")
        preset = _said(variables, _environment.PRESET)
        if preset:
            self._take_preset(preset, _environment.PRESET, "environment")
        enabled = _said(variables, _environment.ENABLED)
        if enabled:
            self._take_switch(enabled)
        custom = _said(variables, _environment.CUSTOM)
        if custom:
            self._take_custom(custom, _environment.CUSTOM, "environment")
        self._look_for_slips(variables)

    def _take_switch(self, text: str) -> None:
        found = _SWITCH.get(text.lower())
        if found is None:
            self._faults.append(Fault(_environment.ENABLED, text, "is no switch", "true or false"))
        else:
            self._enabled, self._sources["enabled"] = found, "environment"

    def _read_legacy(self, variables: Mapping[str, str]) -> dict[str, Any]:
        """Return the fields that the older variables stand for."""
        fields: dict[str, Any] = {}
        used: list[str] = []
        for name in sorted(variables):
            text = _said(variables, name)
            if not text or not (name in _environment.LEGACY or _environment.is_override(name)):
                continue
            used.append(name)
            field = _environment.LEGACY.get(name)
            value = self._legacy_value(name, field, text)
            if value is None:
                continue
            if field is None:
                operation = _environment.operation_of(name)
                self._legacy.add(operation)
                fields.setdefault("operation_overrides", {})[operation] = value
            else:
                fields[field] = value
        if used:
            self._deprecate(used, fields)
        return fields

    def _legacy_value(self, name: str, field: str | None, text: str) -> int | float | str | None:
        from holdfast.infrastructure.resilience import _settings

        if field is None or field == "default_strategy":
            strategy = text.lower()
            if strategy not in STRATEGIES:
                self._faults.append(_settings.strategy_fault(name, text))
                return None
            return strategy
        value = _settings.number(field, text)
        if value is None:
            self._faults.append(_settings.number_fault(name, field, text))
        return value

    def _deprecate(self, used: list[str], fields: Mapping[str, Any]) -> None:
        import json
        import warnings

        form = f"{_environment.CUSTOM}='{json.dumps(fields)}'"
        are = "is" if len(used) == 1 else "are"
        warnings.warn(f"{', '.join(used)} {are} deprecated: write {form}", DeprecationWarning, stacklevel=4)
        self._warnings += [Fault(name, None, "is deprecated", "the new form", form) for name in used]

    def _take_preset(self, preset: object, path: str, source: str) -> None:
        name = _preset_called(preset)
        if name is None:
            self._faults.append(_no_preset(preset, path))
        else:
            self._preset, self._sources["preset"] = name, source

    def _take_custom(
        self, custom: str | bytes | Mapping[str, Any], path: str, source: str, operations: Sequence[str] = ()
    ) -> Mapping[str, Any]:
        validation = validate(custom, operations=operations)
        self._faults += [fault._within(path) if path else fault for fault in validation.faults]
        self._take(validation.settings, source)
        return validation.settings

    def _take(self, fields: Mapping[str, Any], source: str) -> None:
        from holdfast.infrastructure.resilience._settings import frozen

        for name, value in frozen(fields).items():
            if name == "operation_overrides":
                self._overrides |= value
                self._sources |= {f"{name}.{operation}": source for operation in value}
            elif name == "enabled":
                self._enabled, self._sources[name] = value, source
            elif name != "preset":
                self._fields[name], self._sources[name] = value, source

    def _look_for_slips(self, variables: Mapping[str, str]) -> None:
        from holdfast.infrastructure.resilience._settings import near_name

        for name in sorted(variables):
            if name.startswith("RESILIENCE_") and name not in _environment.NAMES:
                meant = near_name(name, _environment.NAMES)
                if meant:
                    self._warnings.append(Fault(name, None, "is unknown", meant))

    def _made(self) -> Configuration:
        preset = PRESETS[self._preset]
        overrides = {**preset.overrides, **self._overrides}
        sources = {f"operation_overrides.{name}": "preset" for name in preset.overrides} | self._sources
        strategy = self._fields.get("default_strategy", preset.strategy)
        made = Configuration._make(
            preset=self._preset,
            strategy=strategy,
            enabled=self._enabled,
            overrides=overrides,
            settings=self._fields,
            sources=sources,
            warnings=(),
            legacy=frozenset(self._legacy),
        )
        return made._warned((*self._warnings, *self._unknown(), *_unwise(made)))

    def _unknown(self) -> list[Fault]:
        """Return what overrides name though nobody has it; code may still register it."""
        from holdfast.infrastructure.resilience._settings import unknown_operation

        if not self._operations:
            return []
        known = {*self._operations, *(name for preset in PRESETS.values() for name in preset.overrides)}
        variables = {_environment.as_variable(name) for name in known}
        return [
            unknown_operation(name, self._operations)
            for name in self._overrides
            if name not in known and not (name in self._legacy and name in variables)
        ]


def validate_file(document: bytes | Mapping[str, Any]) -> Validation:
    """Check what a configuration file says, JSON text or fields, as `load` does: `preset` and `enabled` too."""
    from holdfast.infrastructure.resilience import _documents, _settings

    fields, faults = (
        _documents.read_json(document, file=True)
        if isinstance(document, bytes)
        else _documents.read_fields(document)
    )
    faults = _with_faults_of_file(fields, faults)
    preset = _preset_called(fields.get("preset"))
    if "preset" in fields and preset is None:
        faults.append(_no_preset(fields["preset"], "preset"))
    custom = {name: value for name, value in fields.items() if name not in _ALSO}
    near = suggest(custom) if custom else None
    return Validation(
        faults=tuple(faults),
        warnings=() if faults or not custom else tuple(_settings.unwise(custom, preset)),
        settings={} if faults else _settings.frozen(custom),
        template=None if near is None else near[0].name,
    )


def _with_faults_of_file(fields: Mapping[str, Any], faults: list[Fault]) -> list[Fault]:
    """Return the faults, and those of the fields of a file, its preset's aside."""
    from holdfast.infrastructure.resilience import _documents, _settings

    found = list(faults)
    if _documents.is_readable(found):
        found = _settings.merged(found, _settings.check(fields, (), _ALSO))
    enabled = fields.get("enabled", True)
    if not isinstance(enabled, bool):
        found.append(Fault("enabled", enabled, "is no switch", "true or false"))
    return found


def _preset_called(name: object) -> str | None:
    found = name.strip().lower() if isinstance(name, str) else None
    return found if found in PRESETS else None


def _no_preset(name: object, path: str) -> Fault:
    from holdfast.infrastructure.resilience import _settings

    near = _settings.nearest(name, PRESETS) or _meant(name.strip().lower() if isinstance(name, str) else name)
    return Fault(path, name, "is no preset", f"one of {', '.join(PRESETS)}", near)


def _meant(name: object) -> str:
    """Return the preset that an environment's name recommends, if it is one."""
    found = recommend(name[:200]) if isinstance(name, str) else None
    return "" if found is None or found.preset == "simple" else found.preset


def _said(variables: Mapping[str, str], name: str) -> str:
    return variables.get(name, "").strip()


def _unwise(made: Configuration) -> list[Fault]:
    from holdfast.infrastructure.resilience._settings import warnings

    default = made.operation("")
    found = warnings(
        attempts=default.attempts,
        threshold=default.threshold,
        deadline=default.deadline,
        strategy=made.strategy,
        preset=made.preset,
    )
    return list(found)
