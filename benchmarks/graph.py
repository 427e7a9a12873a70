"""CPU that one evaluation of a graph takes: `python -m benchmarks.graph [ORDERS]`, the target is 150 ms for 10,000.

Three shapes: one row of layers where each order waits for three of the layer before; a chain that falls whole; a fan of
which a single result arrives. Beside each the number of changes, which is what a store writes.
"""

import argparse
import gc
import time
from dataclasses import replace
from random import Random

from holdfast.infrastructure.store.graph import evaluate
from holdfast.infrastructure.store.state import StepRecord, StepState

TARGET_MS = 150.0
ROUNDS = 7
BLANK = StepRecord(job="run", origin="run", position=0, key="", line=0, payload=b"", state=StepState.PENDING)
Case = tuple[list[StepRecord], dict[str, StepState]]


def layers(orders: int) -> Case:
    """Return layers of 100; the first layer runs and one result arrives."""
    random = Random(1)
    steps = [
        replace(
            BLANK,
            key=f"o{one}",
            state=StepState.RUNNING if one < 100 else StepState.PENDING,
            depends_on=tuple({f"o{(one // 100 - 1) * 100 + random.randrange(100)}" for _ in range(3)})
            if one >= 100
            else (),
        )
        for one in range(orders)
    ]
    return steps, {"o0": StepState.SUCCEEDED}


def chain(orders: int) -> Case:
    """Return a chain whose first order fails: all fall."""
    steps = [replace(BLANK, key=f"o{one}", depends_on=(f"o{one - 1}",)) for one in range(1, orders)]
    return [replace(BLANK, key="o0", state=StepState.RUNNING), *steps], {"o0": StepState.FAILED}


def fan(orders: int) -> Case:
    """Return orders that all run, and one that waits for them; one result arrives."""
    steps = [replace(BLANK, key=f"o{one}", state=StepState.RUNNING) for one in range(orders - 1)]
    last = replace(BLANK, key="last", depends_on=tuple(one.key for one in steps))
    return [*steps, last], {"o0": StepState.SUCCEEDED}


def measure(case: Case) -> tuple[float, int]:
    """Return the CPU milliseconds of the best of some evaluations, and how many steps change."""
    taken: list[float] = []
    changes = 0
    for _ in range(ROUNDS):
        gc.collect()
        start = time.process_time()
        changes = len(evaluate(*case).changes)
        taken.append((time.process_time() - start) * 1000)
    return min(taken), changes


def main() -> int:
    """Print the table; return 1 if a target is missed."""
    parser = argparse.ArgumentParser(description="CPU of one evaluation of a graph.")
    parser.add_argument("orders", type=int, nargs="?", default=10_000)
    orders: int = parser.parse_args().orders
    missed = False
    print(f"{'graph':<8} {'orders':>7} {'CPU ms':>8} {'changes':>8}")
    for make in (layers, chain, fan):
        cpu, changes = measure(make(orders))
        missed |= cpu > TARGET_MS * orders / 10_000
        print(f"{make.__name__:<8} {orders:>7} {cpu:>8.1f} {changes:>8}")
    return int(missed)


if __name__ == "__main__":
    raise SystemExit(main())
