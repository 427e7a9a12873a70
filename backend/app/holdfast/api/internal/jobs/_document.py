"""The OpenAPI document as it is committed: `python -m` this prints it."""

from __future__ import annotations

import json
import sys

from holdfast.api.internal.jobs.app import Tenants, create_app
from holdfast.api.internal.resilience.auth import ApiKeys
from holdfast.infrastructure.store.memory import MemoryStateStore


def document() -> str:
    """Return the document of the application, sorted and indented."""
    made = create_app(Tenants(MemoryStateStore()), keys=ApiKeys()).openapi()
    return json.dumps(made, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(document())
