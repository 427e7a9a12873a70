"""What happens to whom: scenarios as data, those of the lab and a user's own."""

from dataclasses import dataclass
from pathlib import Path

@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A dependency: `workers` in all, spread over `shards`, each with a queue of up to `queue` waiting attempts.

    `mean`: seconds of work per attempt; `service`: exponential, lognormal (sigma 1) or fixed; `order`: fifo or lifo;
    `shed`: drop what its caller no longer waits for before working on it. ConfigurationError with every fault.
    """

    workers: int = 10
    mean: float = 0.1
    service: str = "exponential"
    queue: int = 1000
    order: str = "fifo"
    shed: bool = False
    shards: int = 1

    def __post_init__(self) -> None: ...

@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """What goes wrong from `start` to `end`, seconds; `kind` says what the other numbers mean. ConfigurationError.

    stall: nothing moves; slow: work takes `factor` as long; errors: a share `rate` is refused at once, of one `shard`
    or all (-1), in every other half `period` (0: always); load: arrivals times `factor`, of one `client` or all (-1);
    tail: a share `rate` takes `factor` as long; restart: `factor` times slower at first, evenly less until `end`; hang:
    a share `rate` is never answered; cancel: at `start` a share `rate` of the running calls is cancelled.
    """

    kind: str
    start: float
    end: float
    factor: float = 1.0
    rate: float = 1.0
    period: float = 0.0
    client: int = -1
    shard: int = -1

    def __post_init__(self) -> None: ...
    def active(self, now: float) -> bool:
        """Return whether it holds at `now`, seconds after the start of the scenario."""

@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """An experiment's conditions: `clients` that make `load` calls a second together for `duration` seconds.

    `arrivals`: open (Poisson) or closed (the next call `think` seconds, exponential, after the last); `patience`: the
    time limit of the client's transport, which every policy has below it; `slots`: calls that a client runs at once,
    more are refused to its users; `tiers`: services that call each other, each through the policy; the last is in
    trouble. ConfigurationError with every fault.
    """

    name: str
    says: str = ""
    duration: float = 240.0
    clients: int = 20
    load: float = 70.0
    arrivals: str = "open"
    think: float = 1.0
    patience: float = 2.0
    slots: int = 50
    tiers: int = 1
    server: Server = ...
    troubles: tuple[Trouble, ...] = ()

    def __post_init__(self) -> None: ...
    @property
    def fault(self) -> tuple[float, float]:
        """When the first trouble begins and the last ends, seconds; without one, the middle half."""

def load_scenarios(path: str | Path) -> dict[str, Scenario]:
    """Return the scenarios of a TOML file by name, in its order. ConfigurationError with every fault; OSError."""

def scenarios() -> dict[str, Scenario]:
    """Return the lab's own scenarios by name, in the order of the documentation."""
