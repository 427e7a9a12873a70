"""Python objects by their name on the command line."""

from __future__ import annotations

import importlib
import sys
import traceback
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from holdfast.cli._exit import Code, Stop

_OURS = str(Path(__file__).parents[1])


def find(target: str) -> Any:
    """Return the object `module:name` (or `module:name.attribute`), looked for in the current folder, too."""
    module_name, colon, path = target.partition(":")
    if not colon or not module_name or not path:
        raise Stop(
            Code.WRONG_USE, f"{target!r} is no target: write module:name, for example shop.orders:ship"
        )
    found: Any = load(module_name)
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise Stop(Code.WRONG_USE, f"{module_name} has no {path!r}{_alike(found, name)}") from None
    return found


def _alike(found: object, name: str) -> str:
    alike = get_close_matches(name, [one for one in dir(found) if not one.startswith("_")], 1)
    return f"; did you mean {alike[0]!r}?" if alike else ""


def add_folder() -> None:
    """Have modules imported from the current folder, too."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)


def load(module_name: str) -> Any:
    """Import a module, looked for in the current folder, too."""
    add_folder()
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise Stop(Code.WRONG_USE, f"{module_name} needs {error.name}, which is not installed") from None
        raise Stop(
            Code.WRONG_USE, f"there is no module {error.name!r} here: run this where it can be imported"
        ) from None
    except (Exception, SystemExit) as error:
        said = f"{type(error).__name__}: {error}"
        raise Stop(Code.WRONG_USE, f"{module_name} cannot be imported: {said}{place(error)}") from error


def place(error: BaseException) -> str:
    """Return where an error was raised, unless it says so itself: the line of whoever called what is ours."""
    if isinstance(error, SyntaxError):
        return ""
    frames = traceback.extract_tb(error.__traceback__)
    last = next((one for one in reversed(frames) if not one.filename.startswith(_OURS)), None)
    return "" if last is None else f" ({Path(last.filename).name}, line {last.lineno})"
