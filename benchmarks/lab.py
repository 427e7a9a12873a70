"""Every policy in every scenario of the lab: `python -m benchmarks.lab [--for SECONDS] [--write]`.

Runs are kept in build/lab, one line each, and are not made again: call it again to go on. The default and no policy
get `--seeds`, all others `--other-seeds`. `--share 0/2` takes half of the work, for two processes. `--write` makes the
tables of docs/reference/lab-results.md and the pages beside it from what there is, and adds it to
benchmarks/lab_runs.jsonl; when a policy or the lab has changed, delete its lines there.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from fnmatch import fnmatchcase
from importlib.util import find_spec
from itertools import count, islice
from math import inf
from pathlib import Path

from holdfast import lab
from holdfast.lab.measures import Interval, Measures, bootstrap

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "build" / "lab"
RUNS = ROOT / "benchmarks" / "lab_runs.jsonl"
PAGE = ROOT / "docs" / "reference" / "lab-results.md"
REFERENCE = ROOT / "docs" / "reference" / "lab.md"
PLOTS = ROOT / "docs" / "reference" / "lab"
# The defaults were chosen on the first seeds, and 104 was looked at: a table on the same would flatter them.
_FIRST, _SEEN = 100, 104
_MARKS = ("<!-- made by benchmarks.lab -->", "<!-- end -->")

# Retries without a pause and without an end are no policy for a comparison; threads tell the same as coroutines.
_LEFT_OUT = {"tenacity", "holdfast-sync"}
_DRAWN = {
    "stall": ("none", "holdfast", "tenacity+pybreaker-tuned"),
    "spike": ("none", "holdfast", "holdfast-interactive"),
    "hang": ("none", "holdfast", "hyx-tuned"),
    "tiers": ("none", "holdfast", "stamina-tuned"),
}

Results = Mapping[tuple[str, str], Mapping[int, Measures]]


def policies() -> list[str]:
    """Return the subjects that can be run here, ours first."""
    return [
        name
        for name, one in lab.subjects().items()
        if name not in _LEFT_OUT and all(find_spec(package.partition(".")[0]) for package in one.packages)
    ]


def is_central(policy: str) -> bool:
    """Return whether a subject gets the many seeds: the default, and what it is compared with."""
    return policy in {"none", "holdfast"}


def wanted(seeds: int, other_seeds: int, only: str = "*") -> Iterator[tuple[int, str, str]]:
    """Yield seed, scenario and policy of every run, so that what is done after any time is as even as can be."""
    for number, seed in enumerate(islice(filter(_SEEN.__ne__, count(_FIRST)), max(seeds, other_seeds))):
        for scenario in lab.scenarios():
            for policy in policies():
                if number < (seeds if is_central(policy) else other_seeds) and fnmatchcase(policy, only):
                    yield seed, scenario, policy


def load() -> dict[tuple[str, str], dict[int, Measures]]:
    """Return what was kept: by policy and scenario, by seed."""
    found: dict[tuple[str, str], dict[int, Measures]] = {}
    for path in (*[RUNS] * RUNS.exists(), *sorted(KEPT.glob("*.jsonl"))):
        for line in path.read_text(encoding="utf-8").splitlines():
            one = json.loads(line)
            numbers = {name: inf if value is None else value for name, value in one["measures"].items()}
            found.setdefault((one["policy"], one["scenario"]), {})[one["seed"]] = Measures(**numbers)
    return found


def keep(results: Results) -> None:
    """Write all runs to one file, to go on from anywhere."""
    with RUNS.open("w", encoding="utf-8") as file:
        for (policy, scenario), runs in sorted(results.items()):
            for seed, measures in sorted(runs.items()):
                numbers = {
                    name: None if value == inf else round(value, 6)
                    for name, value in asdict(measures).items()
                }
                one = {"policy": policy, "scenario": scenario, "seed": seed, "measures": numbers}
                file.write(f"{json.dumps(one, separators=(',', ':'))}\n")


def work(seeds: int, other_seeds: int, seconds: float, share: tuple[int, int], only: str = "*") -> int:
    """Make the runs that are missing for so long; return how many are missing still."""
    done, end = load(), time.monotonic() + seconds
    missing = [
        (seed, scenario, policy)
        for number, (seed, scenario, policy) in enumerate(wanted(seeds, other_seeds, only))
        if number % share[1] == share[0] and seed not in done.get((policy, scenario), {})
    ]
    KEPT.mkdir(parents=True, exist_ok=True)
    with (KEPT / f"{share[0]}.jsonl").open("a", encoding="utf-8") as file:
        for number, (seed, scenario, policy) in enumerate(missing):
            if time.monotonic() > end:
                return len(missing) - number
            measures = asdict(lab.run(policy, scenario, seeds=[seed]).measures[0])
            numbers = {name: None if value == inf else value for name, value in measures.items()}
            json.dump({"policy": policy, "scenario": scenario, "seed": seed, "measures": numbers}, file)
            file.write("\n")
            file.flush()
    return 0


def shown(interval: Interval, digits: int = 2) -> str:
    """Return a mean, and half the width of its interval where there is one."""
    half = round((interval.high - interval.low) / 2, digits)
    return f"{interval.mean:.{digits}f}" + (f" ±{half:.{digits}f}" if half else "")


def recovery(values: Sequence[float]) -> str:
    """Return the mean of what is finite, and how often it is not."""
    finite = [value for value in values if value < inf]
    never = len(values) - len(finite)
    if not finite:
        return "never"
    mean = bootstrap(finite)
    half = (mean.high - mean.low) / 2
    text = f"{mean.mean:.1f}" + (f" ±{half:.1f}" if half >= 0.05 else "")
    return f"{text}; never {never} of {len(values)}" if never else text


def matrix(results: Results, measure: str, scenarios: Sequence[str]) -> list[str]:
    """Return one measure as a table: policies by scenarios."""
    lines = ["| policy | seeds | " + " | ".join(scenarios) + " |", "|---|---|" + "---|" * len(scenarios)]
    for policy in policies():
        cells = [_range([len(results.get((policy, scenario), {})) for scenario in scenarios])]
        for scenario in scenarios:
            values = [getattr(one, measure) for one in results.get((policy, scenario), {}).values()]
            if not values:
                cells.append("–")
            elif measure == "recovery":
                cells.append(recovery(values))
            else:
                cells.append(shown(bootstrap(values)))
        lines.append(f"| {policy} | " + " | ".join(cells) + " |")
    return [*lines, ""]


# What is better, and from which difference on it is worth a word.
_BETTER = {
    "goodput": (1, 0.03),
    "goodput_after": (1, 0.02),
    "recovery": (-1, 2.0),
    "false_rejections": (-1, 0.01),
}


def losses(results: Results, ours: str = "holdfast") -> Iterator[str]:
    """Yield a row for each peer that is better than ours in a scenario, by an interval paired by seed."""
    for scenario, spec in lab.scenarios().items():
        for policy in policies():
            theirs, mine = results.get((policy, scenario), {}), results.get((ours, scenario), {})
            common = sorted({*mine} & {*theirs})
            if policy.startswith("holdfast") or not common:
                continue
            for measure, (sign, least) in _BETTER.items():
                longest = spec.duration - spec.fault[1]
                here, there = (
                    [min(getattr(who[seed], measure), longest) for seed in common] for who in (mine, theirs)
                )
                found = bootstrap([sign * (other - own) for own, other in zip(here, there, strict=True)])
                if found.mean >= least and found.low > 0:
                    told = " | ".join(f"{bootstrap(values).mean:.2f}" for values in (here, there))
                    sure = f"{found.low:.2f} to {found.high:.2f}" if len(common) > 1 else f"{found.mean:.2f}"
                    yield f"| {scenario} | {measure} | {policy} | {told} | {sure} | {len(common)} |"


def _range(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low}–{high}"


def page(results: Results) -> str:
    """Return the page of results."""
    scenarios = list(lab.scenarios())
    halves = (scenarios[:8], scenarios[8:])
    lines = [
        "# The lab: every policy in every scenario",
        "",
        "Made by `python -m benchmarks.lab --write`; [what the measures mean](lab.md). Means and half the width of",
        "their 95 % bootstrap intervals over as many seeds, from 100 on, as the second column says; a single seed has",
        "no interval, and what was not run is a dash. Recovery in seconds, of the runs that recover. `NAME` is a",
        "library as its documentation shows it, `NAME-tuned` has settings equal to each other's. tenacity's default,",
        "which retries at once and for ever, is left out. pybreaker lets a client make one call at a time; what waits",
        "for its lock counts as a long call. A policy that retries for long has goodput during a fault from calls that",
        "end after it.",
        "",
        "Pages with plots: " + ", ".join(f"[{name}](lab/{name}.html)" for name in _DRAWN) + ".",
        "",
    ]
    titles = {
        "goodput": "Goodput during the fault",
        "recovery": "Seconds to recover",
        "amplification": "Attempts per call during the fault",
        "goodput_after": "Goodput after the fault",
        "false_rejections": "Calls refused that would have succeeded",
        "wasted": "Work that nobody waited for",
    }
    for measure, title in titles.items():
        lines += [f"## {title}", ""]
        for half in halves:
            lines += matrix(results, measure, half)
    lines += [
        "## Where the default loses",
        "",
        "Peers, or no policy, that are better than `holdfast` by an interval paired by seed that does not hold 0.",
        "Recovery that never comes counts as the rest of the run. A single seed gives no interval, only a hint.",
        "",
        "| scenario | measure | better | holdfast | that one | by, 95 % | seeds |",
        "|---|---|---|---|---|---|---|",
        *losses(results),
    ]
    return "\n".join(lines) + "\n"


def summary(results: Results) -> str:
    """Return the default beside no policy, by scenario, as docs/reference/lab.md shows it."""
    lines = [
        "| scenario | seeds | goodput: none | holdfast | attempts per call | recovery s: none | holdfast | refused |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for scenario in lab.scenarios():
        bare, ours = (results.get((name, scenario), {}) for name in ("none", "holdfast"))
        seeds = sorted({*bare} & {*ours})
        if not seeds:
            continue
        row = [scenario, str(len(seeds))]
        for who, name in (
            (bare, "goodput"),
            (ours, "goodput"),
            (ours, "amplification"),
            (bare, "recovery"),
            (ours, "recovery"),
            (ours, "false_rejections"),
        ):
            values = [getattr(who[seed], name) for seed in seeds]
            row.append(recovery(values) if name == "recovery" else shown(bootstrap(values), 3))
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def put(text: str, results: Results) -> str:
    """Return a page with the summary between its marks."""
    head, _, rest = text.partition(_MARKS[0])
    tail = rest.partition(_MARKS[1])[2]
    return f"{head}{_MARKS[0]}\n\n{summary(results)}\n\n{_MARKS[1]}{tail}"


def draw() -> None:
    """Write the pages with plots, by the lab's own report."""
    PLOTS.mkdir(parents=True, exist_ok=True)
    for scenario, names in _DRAWN.items():
        found = lab.compare([name for name in names if name in policies()], scenario, seeds=3)
        (PLOTS / f"{scenario}.html").write_text(lab.html(found), encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Run what is missing, write what there is."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lab", description=__doc__)
    parser.add_argument(
        "--seeds", type=int, default=30, help="runs of the default and of no policy in each scenario"
    )
    parser.add_argument(
        "--other-seeds", type=int, default=5, help="runs of each other policy in each scenario"
    )
    parser.add_argument("--for", type=float, default=inf, dest="seconds", help="stop after so many seconds")
    parser.add_argument("--only", default="*", help="a pattern for the names of policies")
    parser.add_argument("--share", default="0/1", help="which part of how many this process makes")
    parser.add_argument("--write", action="store_true", help="write the page and the plots, and run nothing")
    options = parser.parse_args(arguments)
    if options.write:
        results = load()
        keep(results)
        PAGE.write_text(page(results), encoding="utf-8")
        REFERENCE.write_text(put(REFERENCE.read_text(encoding="utf-8"), results), encoding="utf-8")
        draw()
        return 0
    part, of = map(int, options.share.split("/"))
    left = work(options.seeds, options.other_seeds, options.seconds, (part, of), options.only)
    print(f"{left} runs are missing", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
