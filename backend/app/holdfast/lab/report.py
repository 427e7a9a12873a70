"""Tables for people, and a self-contained HTML page with plots."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import inf

from holdfast.lab.experiment import Comparison, Run
from holdfast.lab.measures import NAMES, Interval
from holdfast.lab.tuning import Trial, Tuning

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 720, 150, 44, 18
_COLOURS = {
    "calls": "#8a8f98",
    "succeed": "#1a7f4b",
    "refused by the policy": "#c77700",
    "attempts": "#b3261e",
}
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1c1e21;"
    "background:#fff}table{border-collapse:collapse;margin:1rem 0}td,th{padding:.2rem .7rem;text-align:right;"
    "border-bottom:1px solid #ddd}td:first-child,th:first-child{text-align:left}svg{width:100%;height:auto}"
    "@media(prefers-color-scheme:dark){body{color:#e6e6e6;background:#17181a}td,th{border-color:#444}}"
)


def table(result: Run | Comparison | Tuning) -> str:
    """Return a Markdown table: of the measures, a column per policy, mean and 95 % interval over the seeds.

    Of a tuning: the settings it began with, then its Pareto front, the smallest weighted sum of costs first.
    """
    rows = _tuning_rows(result) if isinstance(result, Tuning) else _measure_rows(_runs(result))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def html(result: Run | Comparison | Tuning) -> str:
    """Return a page that needs nothing else: verdicts, the table, and plots of the first seed, second by second.

    Of a tuning: its table, and every trial by the two costs that weigh most.
    """
    if isinstance(result, Tuning):
        title = f"Settings for {', '.join(result.scenarios)}"
        return _page(title, _tuning_parts(result))
    runs = _runs(result)
    title = f"{', '.join(run.policy for run in runs)} in {runs[0].scenario.name}"
    parts = [*(f"<p>{escape(run.verdict)}</p>" for run in runs), _html_table(_measure_rows(runs))]
    parts += [f"<h2>{escape(run.policy)}</h2>{_plot(run)}{_strip(run)}" for run in runs]
    seeds = len(runs[0].seeds)
    parts.append(f"<p>Means and 95 % intervals of {seeds} seeds; plots of seed {runs[0].seeds[0]}.</p>")
    return _page(title, parts)


def _page(title: str, parts: Sequence[str]) -> str:
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style><body><h1>{escape(title)}</h1>{''.join(parts)}</body></html>\n"
    )


def _measure_rows(runs: Sequence[Run]) -> list[list[str]]:
    rows = [["measure", *(run.policy for run in runs)]]
    return rows + [[name, *(_shown(run.interval(name)) for run in runs)] for name in NAMES]


def _tuning_rows(tuning: Tuning) -> list[list[str]]:
    shown = [tuning.trials[0], *(one for one in tuning.front if one is not tuning.trials[0])]
    names = list(dict.fromkeys(name for one in shown for name in one.settings))
    rows = [["", "sum", *tuning.weights, *names]]
    for one in shown:
        costs = [f"{one.costs[name]:.3f}" for name in tuning.weights]
        settings = [f"{one.settings.get(name, '')}" for name in names]
        rows.append([_role(one, tuning), f"{one.score:.3f}", *costs, *settings])
    return rows


def _role(trial: Trial, tuning: Tuning) -> str:
    on = trial in tuning.front
    if trial is tuning.trials[0]:
        return "start, on the front" if on else "start"
    return "best" if trial is tuning.best else "front"


def _tuning_parts(tuning: Tuning) -> list[str]:
    weights = ", ".join(f"{name} {weight:g}" for name, weight in tuning.weights.items())
    told = (
        f"{len(tuning.trials)} trials, seed {tuning.seed}. Costs go from 0 (as good as can be) to about 1; the sum "
        f"weighs them: {weights}. No trial is better than one of the front in everything."
    )
    return [f"<p>{escape(told)}</p>", _html_table(_tuning_rows(tuning)), _scatter(tuning)]


def _scatter(tuning: Tuning) -> str:
    """Draw every trial by the two costs that weigh most; those of the front are filled."""
    names = sorted(tuning.weights, key=lambda name: -tuning.weights[name])[:2]
    across, up = names[0], names[-1]
    most = [max(one.costs[name] for one in tuning.trials) or 1.0 for name in (across, up)]
    shapes: list[str] = []
    front = tuning.front
    for one in tuning.trials:
        x = _LEFT + one.costs[across] / most[0] * (_WIDTH - 2 * _LEFT)
        y = 4 + _HEIGHT * (1 - one.costs[up] / most[1])
        fill = _COLOURS["succeed"] if one in front else "none"
        title = escape(", ".join(f"{name}={value}" for name, value in one.settings.items()))
        at = f'cx="{x:.1f}" cy="{y:.1f}" r="4" stroke="currentColor"'
        shapes.append(f'<circle {at} fill="{fill}"><title>{title}</title></circle>')
    return (
        f'<svg viewBox="0 -6 {_WIDTH} {_HEIGHT + _BOTTOM + 12}" role="img" font-size="11" fill="currentColor" '
        f'aria-label="trials by {across} and {up}">{"".join(shapes)}'
        f'<text x="{_WIDTH - _LEFT}" y="{_HEIGHT + _BOTTOM}" text-anchor="end">'
        f"cost of {across}, 0 to {most[0]:.2f}</text>"
        f'<text x="0" y="8">cost of {up}, 0 to {most[1]:.2f}</text></svg>'
        "<p>Filled: the front. Point at one to see its settings.</p>"
    )


def _runs(result: Run | Comparison) -> tuple[Run, ...]:
    return result.runs if isinstance(result, Comparison) else (result,)


def _number(value: float) -> str:
    return "never" if value == inf else f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}"  # noqa: PLR2004


def _shown(interval: Interval) -> str:
    mean = _number(interval.mean)
    if interval.low == interval.high:
        return mean
    return f"{mean} ({_number(interval.low)} to {_number(interval.high)})"


def _html_table(rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in rows[0])
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows[1:])
    return f"<table><tr>{head}</tr>{body}</table>"


def _plot(run: Run) -> str:
    """Draw what happened per second; the time of the fault is shaded."""
    series = run.series
    lines = dict(zip(_COLOURS, (series.calls, series.good, series.rejected, series.attempts), strict=True))
    top = max(1, *(max(values, default=0) for values in lines.values()))
    seconds = max(1, len(series.calls) - 1)

    def x(second: float) -> float:
        return _LEFT + second / seconds * (_WIDTH - _LEFT)

    def y(value: float) -> float:
        return _HEIGHT * (1 - value / top) + 4

    start, end = run.scenario.fault
    band = f'x="{x(start):.1f}" y="4" width="{x(end) - x(start):.1f}" height="{_HEIGHT}"'
    shapes = [f'<rect {band} fill="#b3261e" opacity="0.08"/>']
    for name, values in lines.items():
        points = " ".join(f"{x(second):.1f},{y(value):.1f}" for second, value in enumerate(values))
        style = f'fill="none" stroke="{_COLOURS[name]}" stroke-width="1.3"'
        shapes.append(f'<polyline points="{points}" {style}><title>{name}</title></polyline>')
    shapes += [
        f'<text x="{_LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value}</text>' for value in (0, top)
    ]
    for second in range(0, seconds + 1, max(1, round(seconds / 6))):
        at = f'x="{x(second):.1f}" y="{_HEIGHT + _BOTTOM}"'
        shapes += [f'<text {at} text-anchor="middle">{second} s</text>']
    legend = " ".join(f'<span style="color:{colour}">■ {name}</span>' for name, colour in _COLOURS.items())
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT + _BOTTOM + 6}" role="img" font-size="11" fill="currentColor" '
        f'aria-label="calls per second of {escape(run.policy)}">{"".join(shapes)}</svg><p>{legend} (per second)</p>'
    )


_STATES = {"open": "#b3261e", "half-open": "#c77700"}
_STRIP = 48


def _strip(run: Run) -> str:
    """Draw how many clients' breakers are open and half-open; nothing where there are none."""
    series, clients = run.series, run.scenario.clients
    if not series.open:
        return ""
    step = (_WIDTH - _LEFT) / max(1, len(series.calls) - 1)
    shapes: list[str] = []
    for name, values in zip(_STATES, (series.open, series.half_open), strict=True):
        points = " ".join(
            f"{_LEFT + second * step:.1f},{4 + _STRIP * (1 - value / clients):.1f}"
            for second, value in enumerate(values)
        )
        style = f'fill="none" stroke="{_STATES[name]}" stroke-width="1.3"'
        shapes.append(f'<polyline points="{points}" {style}><title>{name}</title></polyline>')
    for value in (0, clients):
        y = 8 + _STRIP * (1 - value / clients)
        shapes.append(f'<text x="{_LEFT - 6}" y="{y:.1f}" text-anchor="end">{value}</text>')
    legend = " ".join(f'<span style="color:{colour}">■ {name}</span>' for name, colour in _STATES.items())
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_STRIP + 12}" role="img" font-size="11" fill="currentColor" '
        f'aria-label="breakers of {escape(run.policy)}">{"".join(shapes)}</svg>'
        f"<p>{legend} (clients whose circuit breaker is so)</p>"
    )
