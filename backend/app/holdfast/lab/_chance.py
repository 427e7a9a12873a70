"""Common random numbers: each draw depends on what it is for, and not on how many were drawn before."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15

ARRIVAL, SERVICE, FAULT, TAIL, HANG, CANCEL, SHARD, THINK, POLICY = range(1, 10)


def mix(value: int) -> int:
    """Return 64 bits that look random (Steele et al., "Fast Splittable Pseudorandom Number Generators", 2014)."""
    value = (value + _GOLDEN) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


class Chance:
    """The random numbers of one run: a stream per purpose, addressed by two whole numbers."""

    __slots__ = ("_seeds", "seed")

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._seeds = [
            mix(mix(seed & _MASK) ^ (stream * 0xD6E8FEB86659FD93 & _MASK)) for stream in range(POLICY + 1)
        ]

    def uniform(self, stream: int, one: int, two: int = 0) -> float:
        """Return a number from 0, below 1."""
        return (mix(mix(self._seeds[stream] ^ one) ^ two) >> 11) * 2.0**-53

    def exponential(self, stream: int, one: int, two: int = 0) -> float:
        """Return a number with mean 1."""
        return -math.log(1.0 - self.uniform(stream, one, two))

    def lognormal(self, stream: int, one: int, two: int = 0) -> float:
        """Return a number with mean 1 whose logarithm has the standard deviation 1 (Box and Muller)."""
        radius = math.sqrt(2 * self.exponential(stream, one, 2 * two))
        angle = 2 * math.pi * self.uniform(stream, one, 2 * two + 1)
        return math.exp(radius * math.cos(angle) - 0.5)

    def arrivals(self, client: int, rates: list[tuple[float, float]]) -> Iterator[float]:
        """Yield the instants of a Poisson process whose rate is given piecewise, by inverting its integral."""
        need, number = self.exponential(ARRIVAL, client, 0), 0
        for (start, rate), (end, _) in pairwise(rates):
            now = start
            while rate and now + need / rate < end:
                now += need / rate
                yield now
                number += 1
                need = self.exponential(ARRIVAL, client, number)
            if rate:
                need -= (end - now) * rate
