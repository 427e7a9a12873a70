"""What a run of tests makes bears the run's name, so that what killed processes leave can be found and cleared away."""

import os
from uuid import uuid4

RUN = "HOLDFAST_TEST_RUN"
"""The variable with the name of the run, if it has one: lower-case letters, digits and underscores."""


def postgres_address() -> str:
    """Return the URL of the PostgreSQL that tests use, if it answers."""
    return os.environ.get("HOLDFAST_POSTGRES_URL") or "postgresql://postgres@127.0.0.1:5432/postgres"


def database_name() -> str:
    """Return the name of a database that is not there yet."""
    return f"{os.environ.get(RUN) or 'holdfast_test'}_{uuid4().hex[:12]}"
