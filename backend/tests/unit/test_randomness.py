"""The common random source, and how it is replaced."""

import os
import random
import subprocess
import sys
import threading

import pytest

from holdfast.infrastructure.resilience.randomness import current_random, use_random

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


FORK = """
import os
from holdfast.infrastructure.resilience.randomness import current_random, use_random

def draw():
    print(current_random().random(), flush=True)

def draw_in_a_child():
    if os.fork() == 0:
        draw()
        os._exit(0)
    os.wait()
"""


def drawn(*lines: str) -> list[float]:
    """Return the numbers that a new process and its children draw."""
    script = "\n".join([FORK, *lines])
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return [float(line) for line in done.stdout.split()]


def test_there_is_one_common_source() -> None:
    """Every call and every thread gets the same source."""
    seen: list[random.Random] = []
    thread = threading.Thread(target=lambda: seen.append(current_random()))
    thread.start()
    thread.join()

    assert seen == [current_random()]


def test_the_common_source_is_not_the_random_modules() -> None:
    """Seeding the module `random` does not make jitter march in step."""
    random.seed(7)
    first = current_random().random()
    random.seed(7)

    assert current_random().random() != first


def test_a_seed_gives_the_same_numbers() -> None:
    """`use_random(seed)` draws what `Random(seed)` draws."""
    expected = [random.Random(42).random()]

    with use_random(42) as source:
        assert source is current_random()
        assert [source.random()] == expected


def test_a_source_is_used_as_it_is() -> None:
    """`use_random(source)` gives that very object, subclasses too."""

    class Highest(random.Random):
        def random(self) -> float:
            return 0.999

    with use_random(Highest()):
        assert current_random().random() == 0.999


def test_use_random_nests() -> None:
    """Each block puts back the source that it found, after an error too."""
    common = current_random()

    with use_random(1) as outer:
        with use_random(2) as inner:
            assert current_random() is inner
        with pytest.raises(KeyError), use_random(3):
            raise KeyError
        assert current_random() is outer

    assert current_random() is common


def test_one_use_random_may_be_entered_again_inside_itself() -> None:
    """The same object, entered twice, leaves as many times."""
    common, use = current_random(), use_random(3)

    with use:
        with use:
            pass
        assert current_random() is not common

    assert current_random() is common


@needs_fork
def test_a_child_process_draws_its_own_numbers() -> None:
    """After a fork the common source is reseeded: siblings and parent do not jitter alike."""
    numbers = drawn("current_random()", "draw_in_a_child()", "draw_in_a_child()", "draw()")

    assert len(set(numbers)) == len(numbers) == 3


@needs_fork
def test_a_chosen_source_goes_on_in_a_child_process() -> None:
    """A source that somebody chose keeps its sequence: a seeded test stays seeded."""
    numbers = drawn("with use_random(42):", "    draw_in_a_child()", "    draw_in_a_child()")

    assert numbers == [random.Random(42).random()] * 2
