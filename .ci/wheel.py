"""Check a built wheel, `wheel.py FOLDER`: what it holds, and that it works where the tree is not."""

import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent.parent
USE = """
import importlib, pathlib, sys
import holdfast
home = pathlib.Path(holdfast.__file__).parent
assert home.is_relative_to(sys.prefix), f"holdfast came from {home}"
# Programs: the command's, and alembic's.
programs = {"__main__.py", "env.py"}
modules = [p.relative_to(home.parent).with_suffix("") for p in home.rglob("*.py") if p.name not in programs]
for module in modules:
    importlib.import_module(".".join(module.parts).removesuffix(".__init__"))
print(f"{len(modules)} modules of the wheel imported")
"""
PLUGIN = """
def test_plugin(pytestconfig):
    assert pytestconfig.pluginmanager.hasplugin("holdfast")
"""


def expected() -> set[str]:
    """Return the paths that the wheel must hold: the code, its page and scenarios, the marker and the contracts."""
    code, contracts = ROOT / "backend/app", ROOT / "backend/contracts"
    return {
        *(
            path.relative_to(code).as_posix()
            for path in code.rglob("*")
            if path.suffix in {".py", ".html", ".toml"}
        ),
        *(
            f"holdfast/{path.relative_to(contracts).as_posix()}"
            for path in contracts.rglob("*")
            if path.suffix in {".pyi", ".json"}
        ),
        "holdfast/py.typed",
    }


def fault(wheel: Path) -> str | None:
    """Return what is wrong with the content of `wheel`, or None."""
    held = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("holdfast/")}
    if held != expected():
        return f"{wheel.name}: missing {sorted(expected() - held)}, unexpected {sorted(held - expected())}"
    suffixes = {PurePosixPath(name).suffix for name in held}
    whole = suffixes == {".py", ".pyi", ".typed", ".html", ".json", ".toml"}
    return None if whole else f"{wheel.name} holds only {sorted(suffixes)}"


def use(wheel: Path) -> None:
    """Install `wheel` into a new environment, import all of it, and let pytest find the plugin."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = str(Path(folder) / "bin" / "python")
        pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"]
        subprocess.run([*pip, "install", f"{wheel}[test]"], check=True)
        subprocess.run([python, "-I", "-c", USE], check=True, cwd=folder)
        Path(folder, "test_plugin.py").write_text(PLUGIN, encoding="utf-8")
        subprocess.run([python, "-m", "pytest", "-q", "test_plugin.py"], check=True, cwd=folder)


def main(folder: Path) -> str | None:
    """Check the one wheel in `folder`; return what is wrong, if anything is."""
    wheels = sorted(folder.glob("holdfast-*.whl"))
    if len(wheels) != 1:
        return f"one wheel was expected in {folder}, found {len(wheels)}"
    wrong = fault(wheels[0])
    if wrong is None:
        use(wheels[0].resolve())
    return wrong


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
