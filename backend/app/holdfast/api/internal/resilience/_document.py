"""The OpenAPI document as it is committed: `python -m` this prints it."""

from __future__ import annotations

import json
import sys

from holdfast.api.internal.resilience.app import Operations, create_app
from holdfast.api.internal.resilience.auth import ApiKeys
from holdfast.infrastructure.resilience.live import LiveConfiguration
from holdfast.infrastructure.resilience.registry import Registry


def document() -> str:
    """Return the document of the application, sorted and indented."""
    operations = Operations(live=LiveConfiguration(Registry(), environ={}))
    try:
        made = create_app(operations, keys=ApiKeys()).openapi()
    finally:
        operations.close()
    return json.dumps(made, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(document())
