"""From a trace to its measures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from math import inf

from holdfast.lab._server import Call
from holdfast.lab._simulation import Trace
from holdfast.lab.measures import Measures
from holdfast.lab.scenarios import Scenario

# Seconds: what begins so late may not have ended, how long calls must succeed again, what that is compared with.
_TAIL = 10.0
_STEADY = 5
_RECOVERED = 0.95


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return the value below which `share` of the sorted values lie; 0 without values."""
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0


def _share(part: float, whole: float, empty: float = 0.0) -> float:
    return part / whole if whole else empty


def _goodput(calls: Sequence[Call], low: float, high: float) -> float:
    found = Counter(
        call.outcome == "ok" for call in calls if low <= call.at < high and call.outcome != "cancelled"
    )
    return _share(found[True], found.total(), 1.0)


def measure(trace: Trace, scenario: Scenario, fine: Collection[int]) -> Measures:
    """Return the measures of a run; `fine`: the calls that succeed in it without a policy."""
    start, end = scenario.fault
    until = min(trace.until, scenario.duration) - _TAIL
    calls = trace.calls
    during = [at for at, _ in trace.attempts if start <= at < end]
    asked = sum(start <= call.at < end for call in calls)
    times = sorted(call.end - call.at for call in calls if call.outcome == "ok" and start <= call.at < end)
    before = _goodput(calls, 0, start)
    opened = _opened(calls, start, end)
    return Measures(
        goodput_before=before,
        goodput=_goodput(calls, start, end),
        goodput_after=_goodput(calls, end, until),
        amplification=_share(len(during), asked),
        peak=_peak(during, asked / (end - start)),
        load=_share(len(trace.attempts), len(calls)),
        recovery=_recovery(calls, end, until, before),
        wasted=_share(trace.wasted, trace.worked),
        false_rejections=_share(
            sum(call.outcome == "rejected" and call.number in fine for call in calls), len(calls)
        ),
        opened=_share(sum(at - start for at in opened.values()), len(opened), inf),
        probes=_probes(trace, opened, end),
        fairness=_fairness(calls, scenario, start, end),
        mean=_share(sum(times), len(times)),
        p50=quantile(times, 0.5),
        p99=quantile(times, 0.99),
        p999=quantile(times, 0.999),
    )


def _peak(during: Sequence[float], rate: float) -> float:
    return _share(max(Counter(map(int, during)).values(), default=0), rate)


def _recovery(calls: Sequence[Call], end: float, until: float, before: float) -> float:
    """Return after how many seconds the first five begin in which calls succeed as they did before."""

    def second(call: Call) -> int:
        return int(call.at - end)

    after = [call for call in calls if end <= call.at < until and call.outcome != "cancelled"]
    all_, good = Counter(map(second, after)), Counter(second(call) for call in after if call.outcome == "ok")
    for first in range(int(until - end) - _STEADY + 1):
        window = range(first, first + _STEADY)
        asked = sum(all_[one] for one in window)
        if asked and sum(good[one] for one in window) >= _RECOVERED * before * asked:
            return float(first)
    return inf


def _opened(calls: Sequence[Call], start: float, end: float) -> dict[int, float]:
    """Return when each client first refused a call while the fault lasted."""
    first: dict[int, float] = {}
    for call in calls:
        if call.outcome == "rejected" and start <= call.at < end:
            first[call.client] = min(call.at, first.get(call.client, inf))
    return first


def _probes(trace: Trace, opened: dict[int, float], end: float) -> float:
    sent = sum(opened.get(call.client, inf) < at < end for at, call in trace.attempts)
    return _share(sent, len(opened))


def _fairness(calls: Sequence[Call], scenario: Scenario, start: float, end: float) -> float:
    """Return Jain's index (Jain, Chiu, Hawe 1984) of the clients' shares of success while the fault lasts."""
    asked: Counter[int] = Counter()
    good: Counter[int] = Counter()
    for call in calls:
        if start <= call.at < end:
            asked[call.client] += 1
            good[call.client] += call.outcome == "ok"
    shares = [_share(good[client], asked[client]) for client in range(scenario.clients) if asked[client]]
    return _share(sum(shares) ** 2, len(shares) * sum(share * share for share in shares), 1.0)
