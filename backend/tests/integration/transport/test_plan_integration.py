"""Plan × files: TEST_PLAN.md says what the suite of the transports is, and the suite is what it says."""

from pathlib import Path

from backend.tests.integration.resilience.test_plan_integration import faults, fixtures, read_plan

HERE = Path(__file__).resolve().parent


def test_plan_and_files_agree() -> None:
    """Every seam has its file and all its facts, every file but this one has its seam."""
    files = {path.name for path in HERE.glob("test_*.py")} - {Path(__file__).name}
    assert sorted(faults(read_plan((HERE / "TEST_PLAN.md").read_text(encoding="utf-8")), files)) == []


def test_fixtures_of_channels_and_endpoints_are_in_conftest() -> None:
    """Whoever looks for a fixture finds it in a `conftest.py`; the older files of the suite have a few of their own."""
    older = {"conftest.py", "test_http_transport_integration.py", "test_faulty_server_integration.py"}
    found = {path.name: fixtures(path.read_text(encoding="utf-8")) for path in HERE.glob("*.py")}
    assert [name for name, names in found.items() if names and name not in older] == []
