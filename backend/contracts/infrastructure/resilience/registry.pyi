"""Pipelines by name: decorate with a name, say elsewhere what it means, and change that without decorating again."""

from collections.abc import Callable, Hashable, Iterator

from holdfast.infrastructure.resilience.pipeline import Explanation, Pipeline
from holdfast.infrastructure.resilience.policy import Policy

class Resilient(Policy):
    """The pipeline that a registry has under a name, looked up when it is called. Made by `resilient`."""

    def __init__(self, registry: Registry, name: str) -> None: ...
    @property
    def name(self) -> str:
        """The name in the registry."""

    @property
    def pipeline(self) -> Pipeline:
        """The pipeline of that name now; where nobody defined one, it is made: see `Registry`."""

    def explain(self, *, strict: bool = False) -> Explanation:
        """Explain the pipeline of that name as it is now; `strict` as for a pipeline."""

class Registry:
    """Named pipelines. A change holds for the next call of every function decorated by name; calls that run go on.

    A name that nobody defined means what the configuration says, if there is one, else `recommended(name)`. Safe to
    share between threads and tasks.
    """

    def __init__(self) -> None: ...
    def define(self, name: str, *policies: Policy, strict: bool = False) -> Pipeline:
        """Say what `name` means, outermost policy first; replaces what it meant. Give a policy again to keep its state.

        TypeError for what is no policy, or cannot hold the functions decorated by the name; with `strict`,
        ConfigurationError if `explain()` has warnings. Then nothing has changed.
        """

    def get(self, name: str) -> Pipeline:
        """Return the pipeline of a name. LookupError, with the names there are, for one that nobody defined."""

    def discard(self, name: str) -> None:
        """Forget what a name means; the next call of a function decorated by it finds what it means undefined."""

    def resilient(self, name: str) -> Resilient:
        """Return a policy that calls through the pipeline of that name."""

    def __iter__(self) -> Iterator[str]: ...
    def __len__(self) -> int: ...
    def __contains__(self, name: object) -> bool: ...

registry: Registry

def resilient(name: str) -> Resilient:
    """Return a policy that calls through the pipeline which the common `registry` has under `name`."""

def recommended(name: str, kind: str = "general", *, key: Callable[..., Hashable] | None = None) -> Pipeline:
    """Return a new pipeline called `name` for a `kind` of use, as the lab found it best.

    general: 30 s in all, 3 attempts on a budget, a circuit breaker, 10 s an attempt; interactive: shorter times and an
    adaptive concurrency limit; batch: 8 attempts that wait for the breaker, too; sharded: a breaker for each `key`, a
    function of the call's arguments; idempotent-read: a hedge. ConfigurationError for another kind, or a key too
    many or too few.
    """
