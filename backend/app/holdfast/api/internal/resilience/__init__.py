"""The HTTP API for policies, and the dashboard (extra `api`)."""

from importlib.util import find_spec

_missing = [name for name in ("fastapi", "pydantic", "uvicorn") if find_spec(name) is None]
if _missing:
    raise ImportError(
        f"the HTTP API needs {', '.join(_missing)}, which is not installed: pip install 'holdfast[api]'"
    )
