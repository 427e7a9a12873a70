"""What docs/guides/stores.md says beside its Python is true: rights in PostgreSQL, backups, suites for other stores."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest

import holdfast
from backend.tests.integration.jobs._homes import own_database
from holdfast.infrastructure.store.sql import drop_tenant, tenants
from holdfast.infrastructure.store.state import StoreUnavailableError
from holdfast.services.jobs import open_jobs

ROOT = Path(__file__).parents[4]
PAGE = ROOT / "docs" / "guides" / "stores.md"
JOBS = "backend/tests/integration/jobs"


def blocks(kind: str) -> list[str]:
    """Return the blocks of a kind."""
    return re.findall(rf"^```{kind}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def plain(row: int) -> int:
    """Do a row."""
    return row


def worked(url: str, rows: int = 3) -> None:
    """Do a job in a store."""
    with open_jobs(url, [plain]) as jobs:
        assert jobs.run(jobs.submit(range(rows), plain, mode="auto")).succeeded


def test_the_rights_are_those_that_are_needed(postgres_server: str) -> None:
    """An owner may create schemas or is given one, others are granted what the page says: so they work, else not."""
    making, filling, granting = blocks("sql")
    owner, other = (f"holdfast_{uuid4().hex[:12]}" for _ in range(2))
    with own_database(postgres_server) as url, psycopg.connect(url, autocommit=True) as server:
        database = urlsplit(url).path[1:]

        def run(text: str) -> None:
            named = text.replace("DATABASE shop", f"DATABASE {database}").replace("packers", other)
            server.execute(re.sub(r"\bjobs\b", owner, named).encode())

        def address(role: str) -> str:
            parts = urlsplit(url)
            return parts._replace(netloc=f"{role}@{parts.netloc.rpartition('@')[2]}").geturl()

        try:
            run(making)
            worked(address(owner))
            drop_tenant(url, "default")
            run(f"REVOKE CREATE ON DATABASE {database} FROM jobs")
            with pytest.raises(StoreUnavailableError, match="GRANT CREATE ON DATABASE"):
                worked(address(owner))
            run(filling)
            run("CREATE ROLE packers LOGIN")
            with pytest.raises(
                StoreUnavailableError, match="let the owner of the tenant's schema open it once"
            ):
                worked(address(other))
            worked(address(owner))
            with pytest.raises(StoreUnavailableError, match="GRANT USAGE ON SCHEMA"):
                worked(address(other))
            run(granting)
            worked(address(other), 1200)
        finally:
            for role in (owner, other):
                run(f"DO $$ BEGIN DROP OWNED BY {role}; EXCEPTION WHEN undefined_object THEN NULL; END $$")
                run(f"DROP ROLE IF EXISTS {role}")


def test_a_dump_is_restored(postgres_server: str, tmp_path: Path) -> None:
    """The commands of the page take a tenant to another database, with its jobs, where work goes on."""
    if shutil.which("pg_dump") is None:
        pytest.skip("PostgreSQL's clients, pg_dump and pg_restore, are not installed")
    (script,) = [block for block in blocks("sh") if "pg_dump" in block]
    with own_database(postgres_server) as url, own_database(postgres_server) as restored:
        with open_jobs(url, [plain]) as jobs:
            done = jobs.submit(range(3), plain, mode="auto").id
            assert jobs.run(done).succeeded
            waiting = jobs.submit(range(3), plain, mode="auto").id
        env = {**os.environ, "HOLDFAST_STORE": url, "RESTORED_STORE": restored}
        subprocess.run(["bash", "-euc", script], cwd=tmp_path, env=env, check=True)
        assert tenants(restored) == ["default"]
        with open_jobs(restored, [plain]) as jobs:
            assert jobs.run(waiting).succeeded
            assert [job.id for job in jobs.find()] == [waiting, done]
            assert jobs.run(jobs.submit(range(3), plain, mode="auto")).succeeded


@pytest.fixture
def suites(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Give a function that runs the suites of stores on one of the user's, which stands in a module `counted`."""

    def run(module: str, *words: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "counted.py").write_text(module, encoding="utf-8")
        path = os.pathsep.join([str(tmp_path), str(Path(holdfast.__file__).parents[1]), str(ROOT)])
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path, "HOLDFAST_TEST_STORE": "counted:Home"},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.mark.one_python
def test_the_suites_run_on_a_store_of_ones_own(
    suites: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    """The example of the page passes, processes that race for it too; one that breaks a promise fails."""
    (module,) = [block for block in blocks("python") if "counted.py" in block]
    suite = f"{JOBS}/test_store_conformance_{{}}_integration.py".format
    chosen = "yours and (unlock or an_id_has_one_winner)"
    passed = suites(module, suite("locks"), suite("races"), "-k", chosen)
    assert passed.returncode == 0, passed.stdout
    assert re.search(r"^[2-9] passed", passed.stdout, re.MULTILINE), passed.stdout
    right = "        return getattr(self._store, name)\n"
    wrong = f"        if name == 'unlock':\n            return lambda lock: True\n{right}"
    failed = suites(module.replace(right, wrong), suite("locks"), "-k", chosen)
    assert failed.returncode == 1, failed.stdout
