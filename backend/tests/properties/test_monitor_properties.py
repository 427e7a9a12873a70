"""What holds of monitoring whatever happens: rates, percentiles, differences, alerts, exports and the feed."""

import asyncio
import csv
import io
import json
from collections.abc import Iterable
from itertools import accumulate, pairwise
from math import inf, isfinite
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.infrastructure.resilience.meter import Meter, MeterSnapshot
from holdfast.infrastructure.telemetry._alerts import Board, Reading
from holdfast.infrastructure.telemetry._deltas import BOUNDS, Deltas, Rates, total
from holdfast.infrastructure.telemetry._export import COLUMNS, as_csv
from holdfast.infrastructure.telemetry._plain import plain
from holdfast.infrastructure.telemetry.feed import GAP, Feed, FeedEntry
from holdfast.infrastructure.telemetry.monitor import Alert, Threshold

# Two cores may be shared by many: how long an example takes says nothing.
unhurried = settings(deadline=None, max_examples=60)
count = st.integers(0, 1000)


@st.composite
def counts(draw: st.DrawFn) -> dict[str, Any]:
    """Give what an operation may have done; retries and fallbacks may be counted before their calls end."""
    return {
        **{
            name: draw(count)
            for name in ("successes", "failures", "rejected", "cancelled", "degraded", "timeouts")
        },
        "retries": draw(st.dictionaries(st.integers(1, 20), count, max_size=4)),
        "durations": draw(st.lists(count, min_size=len(BOUNDS) + 1, max_size=len(BOUNDS) + 1)),
    }


def snapshot(done: dict[str, Any]) -> MeterSnapshot:
    calls = done["successes"] + done["failures"] + done["rejected"] + done["cancelled"]
    below: Iterable[int] = accumulate(done["durations"])
    return MeterSnapshot(
        name="x",
        calls=calls,
        running=0,
        successes=done["successes"],
        failures=done["failures"],
        rejected=done["rejected"],
        cancelled=done["cancelled"],
        degraded=done["degraded"],
        timeouts=done["timeouts"],
        attempts=calls + sum(done["retries"].values()),
        retries=done["retries"],
        errors={},
        durations=dict(zip((*BOUNDS, inf), below, strict=True)),
        seconds=0.0,
    )


def plus(one: dict[str, Any], two: dict[str, Any]) -> dict[str, Any]:
    summed = {name: one[name] + two[name] for name in one if isinstance(one[name], int)}
    ordinals = {*one["retries"], *two["retries"]}
    return {
        **summed,
        "retries": {at: one["retries"].get(at, 0) + two["retries"].get(at, 0) for at in ordinals},
        "durations": [a + b for a, b in zip(one["durations"], two["durations"], strict=True)],
    }


class Shown(Meter):
    """A meter that shows what the test says."""

    __slots__ = ("shown",)
    shown: dict[str, Any]

    def snapshot(self) -> MeterSnapshot:
        return snapshot(self.shown)


NOTHING: dict[str, Any] = {
    **dict.fromkeys(("successes", "failures", "rejected", "cancelled", "degraded", "timeouts"), 0),
    "retries": {},
    "durations": [0] * (len(BOUNDS) + 1),
}


def looks(totals: Iterable[dict[str, Any]]) -> list[Rates]:
    """Return what happened between looks at a meter that shows these totals, from nothing on."""
    meter, deltas = Shown("shown by a property"), Deltas(9, 9)
    meter.shown = NOTHING
    deltas.look({"x": meter})
    found: list[Rates] = []
    for shown in totals:
        meter.shown = shown
        figures = deltas.look({"x": meter})
        found.append(Rates(total(figures.values())))
    return found


@unhurried
@given(st.lists(counts(), max_size=6))
def test_differences_add_up(steps: list[dict[str, Any]]) -> None:
    """What happened between looks is what was done between them, and all of it together is the total."""
    found = looks(accumulate(steps, plus))

    assert [one.calls for one in found] == [snapshot(step).calls for step in steps]
    assert [one.retries for one in found] == [
        {at: made for at, made in sorted(step["retries"].items()) if made} for step in steps
    ]


@unhurried
@given(st.lists(counts(), max_size=6))
def test_nothing_is_ever_negative(totals: list[dict[str, Any]]) -> None:
    """Whatever a meter shows from one look to the next, resets included, no difference is negative or too large."""
    for one, shown in zip(looks(totals), totals, strict=True):
        done = snapshot(shown)
        assert 0 <= one.calls <= done.calls
        assert all(0 <= made <= done.retries[at] for at, made in one.retries.items())


@unhurried
@given(st.lists(counts(), max_size=3))
def test_rates_are_shares(steps: list[dict[str, Any]]) -> None:
    """Every rate lies within 0 and 1, and those of success, failure and rejection are 1 together."""
    for one in looks(accumulate(steps, plus)):
        rates = [one.success(), one.failure(), one.rejection(), one.degraded(), one.timeout(), one.retry()]
        assert all(rate is None or 0 <= rate <= 1 for rate in rates)
        three = [rate for rate in rates[:3] if rate is not None]
        assert not three or abs(sum(three) - 1) < 1e-9


@unhurried
@given(counts(), st.lists(st.floats(0, 1), min_size=2, max_size=8).map(sorted))
def test_percentiles_rise_with_their_rank(step: dict[str, Any], ranks: list[float]) -> None:
    """A higher quantile is never smaller; all lie within 0 and the last bound."""
    (one,) = looks([step])
    found = [one.percentile(q) for q in ranks]

    if not sum(step["durations"]):
        assert found == [None] * len(ranks)
        return
    values = [value for value in found if value is not None]
    assert len(values) == len(ranks)
    assert all(low <= high for low, high in pairwise(values))
    assert 0 <= values[0] <= values[-1] <= BOUNDS[-1]


@unhurried
@given(st.lists(st.floats(0, 59), min_size=1, max_size=60), st.floats(0.01, 1))
def test_a_percentile_is_in_the_bucket_of_the_exact_one(values: list[float], q: float) -> None:
    """Interpolation errs by no more than the bucket that the exact quantile is in."""
    durations = [sum(low < value <= high for value in values) for low, high in pairwise((-1.0, *BOUNDS, inf))]
    (one,) = looks([{**NOTHING, "successes": len(values), "durations": durations}])
    rank = q * len(values)
    exact = next(value for at, value in enumerate(sorted(values), 1) if at >= rank - 1e-9)
    low, high = next(ends for ends in pairwise((0.0, *BOUNDS, inf)) if exact <= ends[1])

    found = one.percentile(q)
    assert found is not None
    assert low - 1e-9 <= found <= high + 1e-9


THRESHOLD = Threshold(name="t", measure="p95", value=10.0, lasting=2.0)
value = st.none() | st.floats(0, 20)


@unhurried
@given(st.lists(st.dictionaries(st.sampled_from("abc"), value), max_size=30))
def test_alerts_of_a_subject_take_turns(steps: list[dict[str, float | None]]) -> None:
    """Of one subject an alert begins after two seconds above and ends at once below: never two, none forgotten."""
    board, passing, active = Board(Alert), dict.fromkeys("abc", 0), set[str]()
    for now, step in enumerate(steps):
        changed = board.judge([Reading(THRESHOLD, *one, 0) for one in step.items()], now, now)
        expected: set[tuple[str, bool]] = set()
        for subject in "abc":
            measured = step.get(subject)
            passing[subject] = passing[subject] + 1 if measured is not None and measured > 10.0 else 0
            if (passing[subject] > 2) != (subject in active):
                expected.add((subject, subject not in active))
                active ^= {subject}
        assert {(one.subject, one.until is None) for one in changed} == expected
        assert len(changed) == len(expected)
        assert {one.subject for one in board.alerts(active=True, limit=9)} == active


@unhurried
@given(st.lists(st.text(max_size=30), min_size=1, max_size=5))
def test_names_survive_csv(names: list[str]) -> None:
    """Whatever a name is, the csv module gives it back, but for the apostrophe before what might be a formula."""
    alerts = [{"subject": name, "since": 1.5, "message": name, "measured": -1.0} for name in names]
    facts: dict[str, Any] = {"operations": [], "trends": {}, "states": {}, "levels": [], "alerts": alerts}
    header, *rows = csv.reader(io.StringIO(as_csv(facts), newline=""))

    assert tuple(header) == COLUMNS
    found = [row[header.index("name")] for row in rows]
    guarded = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
    assert found == [f"'{name}" if name.startswith(guarded) else name for name in names]
    assert [row[header.index("message")] for row in rows] == found


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.just(ValueError("x"))
)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner),
)


@unhurried
@given(anything)
def test_anything_becomes_json(value: Any) -> None:
    """Whatever is published is JSON without infinities, as UTF-8, and not long."""
    small = plain(value)
    written = json.dumps(small, allow_nan=False, ensure_ascii=False).encode()

    assert json.loads(written) == small
    assert len(written) < 1_000_000
    if isinstance(value, float) and isfinite(value):
        assert small == value


@unhurried
@given(st.integers(1, 8), st.lists(st.integers(0, 12), max_size=8))
def test_a_follower_gets_or_misses_each_entry_once(size: int, bursts: list[int]) -> None:
    """However reading and writing take turns, what a follower got and what its gaps count is all there was."""
    feed = Feed(size=size)

    async def main() -> list[FeedEntry]:
        follower, found = feed.follow(0), list[FeedEntry]()
        for at, burst in enumerate(bursts):
            for _ in range(burst):
                feed.publish("Told", "x", {})
            for _ in range(at % 3):
                if behind(found, feed):
                    found.append(await anext(follower))
        feed.close()
        return [*found, *[one async for one in follower]]

    entries = asyncio.run(main())
    seen = [entry.number for entry in entries if entry.kind != GAP]
    lost = sum(entry.fields["lost"] for entry in entries if entry.kind == GAP)
    assert seen == sorted(set(seen))
    assert len(seen) + lost == feed.last == sum(bursts)
    assert [entry.number for entry in entries] == sorted(entry.number for entry in entries)


def behind(found: list[FeedEntry], feed: Feed) -> bool:
    return (found[-1].number if found else 0) < feed.last
