"""How far a job is, on one line."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from holdfast.services.jobs.progress import Progress


def line(now: Progress, breakers: Mapping[str, str] | None = None) -> str:
    """Return job, state, share and figures of a progress."""
    halted = ", halted" if now.halted and not now.ended else ""
    done = f"{now.counts.done}/{now.counts.total} ({now.percent} %)"
    return "  ".join([f"{now.job} {now.state}{halted}", done, *figures(now, breakers or {})])


def figures(now: Progress, breakers: Mapping[str, str]) -> list[str]:
    """Return rate, errors, breakers and what remains, as far as there is something to say."""
    counts = now.counts
    failed = counts.failed + counts.timed_out
    said = [f"{now.rate:.1f}/s"] if now.rate and not now.ended else []
    said += [f"{failed} failed"] if failed else []
    said += [f"{counts.needs_review} to review"] if counts.needs_review else []
    said += [f"breaker {name} {state}" for name, state in breakers.items()]
    if now.eta is not None and not now.ended:
        said.append(f"ETA {span(now.eta)}")
    return said


def span(seconds: float) -> str:
    """Return a duration as h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
