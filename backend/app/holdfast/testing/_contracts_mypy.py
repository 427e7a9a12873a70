"""A run of mypy over the users of the package in which nothing of it can be found but its contracts."""

from __future__ import annotations

import os
import subprocess
import tomllib
from pathlib import Path
from typing import Any

from holdfast.testing._contracts_stage import PROBE, run_python
from holdfast.testing._contracts_tree import PACKAGE, Tree, is_private

PROBES = "contract_probes.py"
# What says where the code is, or is said below.
_DROPPED = {
    "cache_dir",
    "exclude",
    "files",
    "modules",
    "mypy_path",
    "overrides",
    "packages",
    "warn_unused_configs",
}


def run_mypy(contracts: Tree, code: Tree, stage: Path, users: list[str]) -> subprocess.CompletedProcess[str]:
    """Run mypy over `users` and the probes of the staged contracts, with JSON as output."""
    _hide_private_modules(contracts, code, stage)
    settings, probes = stage.parent / "mypy.ini", stage.parent / PROBES
    settings.write_text(_settings(_project_settings(contracts.root)), encoding="utf-8")
    probes.write_text(_probes(contracts), encoding="utf-8")
    options = [f"--config-file={settings}", f"--cache-dir={stage.parent / 'cache'}", "--output=json"]
    search = os.pathsep.join(map(str, (stage, contracts.root)))
    return run_python(["-m", "mypy", *options, str(probes), *users], contracts.root, MYPYPATH=search)


def _hide_private_modules(contracts: Tree, code: Tree, stage: Path) -> None:
    """Put a module of which nothing is known in the place of every one without contract."""
    for name, path in code.paths.items():
        if is_private(name) and name not in contracts.paths:
            target = stage / PACKAGE / path.relative_to(code.folder).with_suffix(".pyi")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(
                "from typing import Any\n\ndef __getattr__(name: str) -> Any: ...\n", encoding="utf-8"
            )


def _probes(contracts: Tree) -> str:
    """Return a program that asks, on two lines for each contract, for the type of the name added to it."""
    return "".join(
        f"from {name} import {PROBE} as probe_{n}\nreveal_type(probe_{n})\n"
        for n, name in enumerate(contracts.paths)
    )


def _project_settings(root: Path) -> dict[str, Any]:
    path = root / "pyproject.toml"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    settings: dict[str, Any] = tomllib.loads(text).get("tool", {}).get("mypy", {})
    return settings


def _settings(project: dict[str, Any]) -> str:
    """Return mypy's settings: the project's, strict, and refusing what is of the package and no contract."""
    own = {name: value for name, value in project.items() if name not in _DROPPED}
    sections = {"mypy": own | {"strict": True, "explicit_package_bases": True, "warn_unused_configs": False}}
    for override in project.get("overrides", []):
        modules = override["module"]
        names = ",".join(f"mypy-{name}" for name in ([modules] if isinstance(modules, str) else modules))
        sections[names] = {name: value for name, value in override.items() if name != "module"}
    sections[f"mypy-{PACKAGE}.*"] = {"follow_imports": "error"}
    return "".join(_section(name, values) for name, values in sections.items())


def _section(name: str, values: dict[str, Any]) -> str:
    return f"[{name}]\n" + "".join(f"{key} = {_plain(value)}\n" for key, value in values.items())


def _plain(value: Any) -> str:
    """Write a value of a TOML table as mypy's INI files do."""
    match value:
        case [*many]:
            return ",".join(map(str, many))
        case _:
            return str(value)
