"""Functions by name: where one can be imported from, and importing it there."""

from __future__ import annotations

import importlib
import sys
from pathlib import PurePath
from types import FunctionType
from typing import Any

from holdfast.services.jobs.errors import HandlerNotFoundError


def imported(reference: str) -> Any:
    """Import `module:attribute`, whatever it is. HandlerNotFoundError says what is missing."""
    module, colon, attribute = reference.partition(":")
    if not (colon and module and attribute):
        raise HandlerNotFoundError(reference, "is no place to import from", 'give "module:function"')
    found: Any = _imported(reference, module)
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise HandlerNotFoundError(reference, f"is not there: {found!r} has no {part!r}", _offer(found))
        found = getattr(found, part)
    return found


def reference_of(function: Any) -> str:
    """Return where a function could be imported from; with a `<` in it where it cannot."""
    module = getattr(function, "__module__", None) or "?"
    return f"{_importable(module)}:{getattr(function, '__qualname__', type(function).__qualname__ + '<>')}"


def _importable(module: str) -> str:
    """Return the name under which another process can import what runs here as a program."""
    if module != "__main__":
        return module
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name)
    file = getattr(main, "__file__", None)
    return module if file is None else PurePath(file).stem


def _imported(reference: str, module: str) -> Any:
    main = sys.modules.get("__main__")
    if main is not None and module == _importable("__main__"):
        return main
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = f"cannot be imported: there is no module {error.name!r}"
        remedy = "install it, or run where it can be imported (PYTHONPATH)"
        raise HandlerNotFoundError(reference, missing, remedy) from error
    except Exception as error:
        problem = f"cannot be imported: {type(error).__name__}: {error}"
        raise HandlerNotFoundError(reference, problem, f"mend module {module!r}") from error


def _offer(module: Any) -> str:
    members: dict[str, Any] = getattr(module, "__dict__", {})
    names = sorted(name for name, value in members.items() if _is_function(value))
    return f"it has {', '.join(names[:10])}" if names else "name one of its functions"


def _is_function(value: Any) -> bool:
    return isinstance(value, FunctionType) or hasattr(value, "can_reconcile")
