"""The OpenAPI document of jobs: part of the contract, complete, and true of what the API does."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backend.tests.integration.api._jobs import COMMITTED, OPERATE, JobsApi, Shop
from backend.tests.integration.api._service import declared
from holdfast.api.internal.jobs.app import PREFIX

ROOT = Path(__file__).resolve().parents[4]
TEXT = COMMITTED.read_text(encoding="utf-8")
DOCUMENT: dict[str, Any] = json.loads(TEXT)
OPERATIONS = list(declared(DOCUMENT))
SCHEMAS = "#/components/schemas/"
PROBLEM = "application/problem+json"


def test_the_document_is_the_committed_one(plain_environ: dict[str, str]) -> None:
    """The document that the application makes is the one in the contracts; a command prints it."""
    command = [sys.executable, "-m", "holdfast.api.internal.jobs._document"]
    assert (
        subprocess.run(command, env=plain_environ, capture_output=True, text=True, check=True).stdout == TEXT
    )


def test_operations_have_names_of_their_own() -> None:
    """Every operation has an id and a description; no two share an id."""
    ids = [facts["operationId"] for _, _, facts in OPERATIONS]
    assert len(ids) == len(set(ids))
    assert [one for one in ids if not re.fullmatch(r"jobs_[a-z_]+", one)] == []
    assert [facts["operationId"] for _, _, facts in OPERATIONS if not facts.get("description")] == []


def test_every_reference_leads_somewhere() -> None:
    """Nothing is referred to that is not there."""
    known = {f"{SCHEMAS}{name}" for name in DOCUMENT["components"]["schemas"]}
    assert set(re.findall(r'"[$]ref": "([^"]*)"', TEXT)) <= known


@pytest.mark.parametrize(("method", "path", "facts"), OPERATIONS, ids=lambda one: str(one)[:60])
def test_every_answer_is_declared(method: str, path: str, facts: dict[str, Any]) -> None:
    """Each operation says how it is refused, as a problem, and which key it wants."""
    answers = facts["responses"]
    wanted = {"401", "403", "404", "422", "503"}
    wanted |= {"413", "415", "408"} if method == "POST" else set()
    assert wanted <= set(answers)
    for status, answer in answers.items():
        assert (
            status < "400"
            or {PROBLEM: {"schema": {"$ref": f"{SCHEMAS}HoldfastProblem"}}} == answer["content"]
        )
    assert facts["security"] == [{"bearer": []}, {"apiKey": []}]
    assert (method == "POST") == ("requestBody" in facts)


def test_lists_in_answers_are_bounded() -> None:
    """No list in an answer is without a bound."""
    unbounded = [
        f"{name}.{field}"
        for name, schema in DOCUMENT["components"]["schemas"].items()
        for field, facts in schema.get("properties", {}).items()
        if facts.get("type") == "array" and "maxItems" not in facts
    ]
    assert unbounded == []


def test_the_document_is_served_to_those_who_may_read(
    jobs_client: Callable[..., JobsApi], shared_shop: Shop
) -> None:
    """The application serves its own document."""
    assert jobs_client(shared_shop.app, OPERATE).get("/openapi.json").json() == DOCUMENT
    assert jobs_client(shared_shop.app).get("/openapi.json").status_code == 401


def test_the_page_of_the_documentation_lists_every_endpoint() -> None:
    """The table in docs/jobs-api.md has each endpoint, who may use it, and what its description says."""
    page = (ROOT / "docs/jobs-api.md").read_text(encoding="utf-8")
    rows = re.findall(r"^[|] (GET|POST) [|] `([^`]+)` [|] (read|operate) [|] (.*) [|]$", page, re.MULTILINE)
    wanted = [
        (method, path.removeprefix(PREFIX), facts["x-role"], facts["description"].rstrip("."))
        for method, path, facts in OPERATIONS
    ]
    assert sorted(wanted) == sorted(rows)
