"""Fleets × servers that die: the broker, or the database with the tickets, is killed in the middle and comes back."""

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from backend.tests.integration.jobs import _kill_outages
from backend.tests.integration.jobs._audit import check, dump
from backend.tests.integration.jobs._brokers import Server, need_server
from backend.tests.integration.jobs._fleet import Fleet, Way, gate
from backend.tests.integration.jobs._outside import asked, calls, until
from backend.tests.integration.jobs.test_outages_integration import patience
from holdfast.services.jobs import open_jobs

PROGRAMS = {
    "redis": "redis-server is not installed",
    "rabbitmq": "rabbitmq-server is not installed",
    "": "PostgreSQL's own programs, initdb and pg_ctl, are not installed",
}
STEPS = 200
LEASE = 4.0
# Seconds for which nothing answers, so that those who wait longer each time would be late.
AWAY = 2.5


def test_what_carries_tickets_may_be_killed(
    own_way: tuple[Way, Server], fleet_of: Callable[[Way], Fleet]
) -> None:
    """With all tickets that were not on disk: once it is back the fleet goes on by itself, and repeats no call."""
    way, server = own_way
    fleet = fleet_of(way)
    executor = way.open()
    with open_jobs(way.store, [asked, gate], executor=executor) as jobs:
        fleet.start(2, LEASE=str(LEASE), PACE="0.04")
        fleet.ready(jobs.store)
        job = jobs.submit(range(STEPS), asked, mode="auto")
        until(lambda: len(calls(fleet.outside)) >= 40, 60.0)
        server.crash()
        time.sleep(AWAY)
        before = len(calls(fleet.outside))
        server.start()
        back = time.monotonic()
        until(lambda: len(calls(fleet.outside)) > before, 60.0)
        went_on = time.monotonic() - back
        until(lambda: jobs.job(job).state == "succeeded", 60.0)
        ended = time.monotonic() - back

        assert before < STEPS
        assert fleet.drain() == [0, 0]
        now = dump(jobs.store)
        check(now)
        assert now.jobs[job.id].record.counts.succeeded == STEPS
    executor.close()
    # No call was in doubt for longer than its lease.
    assert set(calls(fleet.outside).values()) == {1}
    assert len(calls(fleet.outside)) == STEPS
    assert went_on < 2.0 + patience()
    assert ended < LEASE + 2.0 + STEPS * 0.04 / 4 + patience()


@pytest.mark.parametrize("kind", PROGRAMS)
def test_a_server_that_is_not_installed_is_missed_where_it_is_required(
    kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Then its tests fail, else they are skipped; both say which program is missing, and what to install."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(_kill_outages, "INSTALLED", tmp_path)
    said = rf"^{re.escape(PROGRAMS[kind])}(, and HOLDFAST_REQUIRE_SERVICES=1)?; install \S+, whose server is started"
    for required, outcome in (("1", pytest.fail.Exception), ("0", pytest.skip.Exception)):
        monkeypatch.setenv("HOLDFAST_REQUIRE_SERVICES", required)
        with pytest.raises(outcome, match=said):
            need_server(kind)
