"""A process is killed at every boundary that the source names; nothing is lost, nothing done twice."""

from pathlib import Path

import pytest

from backend.tests.integration.jobs._homes import Home
from backend.tests.integration.jobs._kill_matrix import (
    CASES,
    Case,
    Nurseries,
    Scene,
    named_in_the_source,
    shortened,
)
from backend.tests.integration.jobs._kill_service import Labels

SHORT = shortened()


def marks(store: str, case: Case) -> tuple[pytest.MarkDecorator, ...]:
    return (pytest.mark.short,) if (store, case.name) in SHORT else ()


@pytest.mark.parametrize(
    ("store_kind", "case"),
    [
        pytest.param(store, case, id=f"{store}: {case.name}", marks=marks(store, case))
        for case in CASES
        for store in case.stores
    ],
    indirect=["store_kind"],
)
def test_nothing_is_lost_and_nothing_repeated(
    home: Home, case: Case, tmp_path: Path, nurseries: Nurseries, labels: Labels
) -> None:
    """Killed at a boundary and taken over by another process, each row is done once, or in doubt as declared."""
    verdict = Scene(case, home, tmp_path, nurseries, labels).play()

    assert (verdict.lost, verdict.repeated) == (0, 0)


def test_the_matrix_has_every_boundary() -> None:
    """Every boundary that the source names is in the matrix, none besides; those of blobs have other tests."""
    named = {point for point in named_in_the_source() if not point.startswith("blob.")}
    assert named == {point for case in CASES for point in case.points}


def test_the_short_form_has_every_boundary() -> None:
    """In less than half of the cases the short form has every boundary, every handler and both stores."""
    cases = [(store, case) for case in CASES for store in case.stores]
    short = [(store, case) for store, case in cases if (store, case.name) in SHORT]

    assert {point for _, case in short for point in case.points} == {
        point for case in CASES for point in case.points
    }
    assert {case.handler for _, case in short} == {"asked", "again", "unsure"}
    assert {store for store, _ in short} == {"sqlite", "postgresql"}
    assert len(short) < len(cases) / 2
