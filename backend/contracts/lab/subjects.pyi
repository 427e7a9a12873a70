"""Whose policy is tried: ours, a user's own, and the peers' unmodified."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from holdfast.infrastructure.resilience.policy import Policy

Function: TypeAlias = Callable[..., Any]

@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A policy under test: `make(fn)` wraps a function of one argument; it is called once per client, in the world.

    `asynchronous`: `fn` is an `async def`, else a `def` in a cooperative thread. `packages` read the world's time
    though they take theirs from the standard library: name the libraries that `make` uses.
    """

    name: str
    make: Callable[[Function], Function]
    asynchronous: bool = True
    packages: tuple[str, ...] = ()

def subject(
    policy: Policy | Callable[[], Policy], *, name: str | None = None, asynchronous: bool = True
) -> Subject:
    """Return a subject for a policy: a function that makes one gives every client its own, a policy is shared by all.

    TypeError for anything else.
    """

def subjects() -> Mapping[str, Subject]:
    """Return the subjects that the lab knows by name: `none`, `holdfast` and its kinds, peers as they are and tuned."""
