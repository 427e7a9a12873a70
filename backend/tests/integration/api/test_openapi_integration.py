"""The OpenAPI document: part of the contract, complete, and true of what the API does."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from backend.tests.integration.api._service import OPERATE, Api, declared
from holdfast.api.internal.resilience.app import PREFIX

ROOT = Path(__file__).resolve().parents[4]
COMMITTED = ROOT / "backend/contracts/api/internal/resilience/openapi.json"
DOCUMENT: dict[str, Any] = json.loads(COMMITTED.read_text(encoding="utf-8"))
OPERATIONS = [(method, path, facts) for method, path, facts in declared(DOCUMENT)]
JSON = "application/json"
PROBLEM = "application/problem+json"


def references(document: str) -> Iterator[str]:
    yield from re.findall(r'"[$]ref": "([^"]*)"', document)


def test_the_document_is_the_committed_one(plain_environ: dict[str, str]) -> None:
    """The document that the application makes is the one in the contracts; a command prints it."""
    command = [sys.executable, "-m", "holdfast.api.internal.resilience._document"]
    printed = subprocess.run(command, env=plain_environ, capture_output=True, text=True, check=True).stdout
    assert COMMITTED.read_text(encoding="utf-8") == printed


def test_operations_have_names_of_their_own() -> None:
    """Every operation has an id and a description; no two share an id."""
    ids = [facts["operationId"] for _, _, facts in OPERATIONS]
    assert len(ids) == len(set(ids))
    assert [one for one in ids if not re.fullmatch(r"resilience_[a-z_]+", one)] == []
    assert [facts["operationId"] for _, _, facts in OPERATIONS if not facts.get("description")] == []


def test_every_reference_leads_somewhere() -> None:
    """Nothing is referred to that is not there."""
    known = {f"#/components/schemas/{name}" for name in DOCUMENT["components"]["schemas"]}
    assert set(references(COMMITTED.read_text(encoding="utf-8"))) <= known


@pytest.mark.parametrize(("method", "path", "facts"), OPERATIONS, ids=lambda one: str(one)[:60])
def test_every_answer_is_declared(method: str, path: str, facts: dict[str, Any]) -> None:
    """Each operation says how it is refused, as a problem, and which key it wants; those with parameters may be 422."""
    open_to_all = facts["x-role"] == "open"
    answers = facts["responses"]
    wanted: set[str] = set() if open_to_all else {"401", "403"}
    wanted |= {"422"} if facts.get("parameters") or method == "POST" else set()
    wanted |= {"404"} if any(one["in"] == "path" for one in facts.get("parameters", [])) else set()
    wanted |= {"413", "415", "408"} if method == "POST" else set()
    assert wanted <= set(answers)
    assert "HTTPValidationError" not in str(answers)
    for status, answer in answers.items():
        assert (
            status < "400"
            or {PROBLEM: {"schema": {"$ref": f"{SCHEMAS}HoldfastProblem"}}} == answer["content"]
        )
    assert ([] if open_to_all else [{"bearer": []}, {"apiKey": []}]) == facts.get("security", [])
    assert (method == "POST") == ("requestBody" in facts)


SCHEMAS = "#/components/schemas/"


def test_lists_in_answers_are_bounded() -> None:
    """No list in an answer is longer than the document says, and none is without a bound."""
    schemas = DOCUMENT["components"]["schemas"]
    unbounded = [
        f"{name}.{field}"
        for name, schema in schemas.items()
        for field, facts in schema.get("properties", {}).items()
        if facts.get("type") == "array" and "maxItems" not in facts
    ]
    assert unbounded == []


def test_the_document_is_served_to_those_who_may_read(app: FastAPI, client: Callable[..., Api]) -> None:
    """The application serves its own document; a mounted router leaves that to its application."""
    assert client(app, OPERATE).get("/openapi.json").json() == DOCUMENT
    outer = FastAPI()
    outer.include_router(app.router, prefix="/deep")
    assert f"/deep{PREFIX}/config" in outer.openapi()["paths"]


def test_the_page_of_the_documentation_lists_every_endpoint() -> None:
    """The table in docs/http-api.md has each endpoint, who may use it, and what its description says."""
    page = (ROOT / "docs/http-api.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^[|] (GET|POST) [|] `([^`]+)` [|] (open|read|operate) [|] (.*) [|]$", page, re.MULTILINE
    )
    wanted = [
        (method, path.removeprefix(PREFIX), facts["x-role"], facts["description"].rstrip("."))
        for method, path, facts in OPERATIONS
    ]
    assert sorted(wanted) == sorted(rows)
