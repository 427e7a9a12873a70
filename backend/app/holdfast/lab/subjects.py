"""Whose policy is tried: ours, a user's own, and the peers' unmodified."""

from __future__ import annotations

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
    if isinstance(policy, Policy):
        return Subject(name=str(name or policy.name or "policy"), make=policy, asynchronous=asynchronous)
    if not callable(policy):
        raise TypeError(f"{policy!r} is no policy: give one, or a function without arguments that makes one")
    factory = policy
    return Subject(
        name=name or str(getattr(factory, "__name__", "policy")),
        make=lambda fn: _made(factory)(fn),  # noqa: PLW0108  # a policy of its own each time
        asynchronous=asynchronous,
    )


def _made(factory: Callable[[], object]) -> Policy:
    policy = factory()
    if not isinstance(policy, Policy):
        raise TypeError(f"{factory!r} made {policy!r}: have it return a policy")
    return policy


def _shard(call: Any) -> int:
    """Return the shard of what a function in the lab is told of its call."""
    shard: int = call.shard
    return shard


def _recommended(kind: str) -> Callable[[Function], Function]:
    def make(fn: Function) -> Function:
        from holdfast.infrastructure.resilience.registry import recommended

        return recommended("lab", kind, key=_shard if kind == "sharded" else None)(fn)

    return make


_NONE = Subject(name="none", make=lambda fn: fn)
_OURS = Subject(name="holdfast", make=_recommended("general"))
_KINDS = [
    Subject(name=f"holdfast-{kind}", make=_recommended(kind))
    for kind in ("interactive", "batch", "sharded", "idempotent-read")
]


def subjects() -> Mapping[str, Subject]:
    """Return the subjects that the lab knows by name: `none`, `holdfast` and its kinds, peers as they are and tuned."""
    from holdfast.lab import _peers

    sync = Subject(name="holdfast-sync", make=_recommended("general"), asynchronous=False)
    own = [_NONE, _OURS, sync, *_KINDS]
    return {one.name: one for one in [*own, *_peers.SUBJECTS]}


def _missing(name: str) -> str | None:
    """Return the distribution that a subject needs and that is not installed, if there is one. KeyError if unknown."""
    from importlib.util import find_spec

    return next((one for one in subjects()[name].packages if find_spec(one) is None), None)
