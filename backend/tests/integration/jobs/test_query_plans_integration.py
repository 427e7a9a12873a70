"""Statements × the planners: what a store sends to a table that is nearly all done is found by an index.

The statements are those that were really sent: nobody keeps a list.
"""

import re
from typing import Any

HOT = (
    "SELECT no, id, handler FROM jobs j WHERE open",
    "SELECT no, priority, id, handler FROM jobs j WHERE open",
    r"SELECT no, coalesce\(concurrency",
    "SELECT id FROM steps .*ORDER BY position LIMIT",
    "UPDATE steps SET state = 'running'",
    "UPDATE steps .*SET begun = TRUE",
    "UPDATE steps .*SET state = 'succeeded'",
    "UPDATE steps SET waits = 0",
    "UPDATE jobs SET pending = pending -",
    "UPDATE jobs SET running = running -",
    "INSERT INTO events",
    "UPDATE workers SET expires_at",
    "SELECT s.id FROM steps s .*coalesce",
    r"SELECT min\(at\) FROM",
)


def test_no_statement_reads_what_grows_from_its_start(query_plans: list[Any]) -> None:
    """Steps, events, outbox and dependencies are searched by an index, and nothing much is thrown away."""
    assert {plan.statement: plan.whole for plan in query_plans if plan.whole} == {}


def test_what_workers_do_is_among_them(query_plans: list[Any]) -> None:
    """Claims, announcements, records, renewals and looks for what is overdue were all seen."""
    seen = [plan.statement for plan in query_plans]
    assert [one for one in HOT if not any(re.match(one, statement) for statement in seen)] == []
    assert len(seen) > 40


def test_a_row_costs_as_much_when_many_are_done(query_plans: list[Any]) -> None:
    """In PostgreSQL, without a VACUUM, no statement of a row reads more pages when 19 of 20 rows are done."""
    # What runs is looked for now and then only, by an index that leads to all that ever ran until there is a VACUUM.
    often = [plan for plan in query_plans if not any("steps_running" in read for read in plan.reads)]
    assert {plan.statement: plan.pages for plan in often if plan.grows} == {}
