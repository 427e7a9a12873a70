"""Services that tests need of this machine: without one they are skipped, or fail where services are required."""

import os

import pytest


def needed(problem: str | None, remedy: str) -> None:
    """Skip if there is a problem with a service, or fail if HOLDFAST_REQUIRE_SERVICES=1; say what to do."""
    if problem is None:
        return
    if os.environ.get("HOLDFAST_REQUIRE_SERVICES") == "1":
        pytest.fail(f"{problem}, and HOLDFAST_REQUIRE_SERVICES=1; {remedy}")
    pytest.skip(f"{problem}; {remedy}")
