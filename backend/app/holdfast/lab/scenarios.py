"""What happens to whom: scenarios as data, those of the lab and a user's own."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

from holdfast.infrastructure.resilience._frozen import Faults, is_dict, is_list

_KINDS = ("stall", "slow", "errors", "load", "tail", "restart", "hang", "cancel")
_SERVICES = ("exponential", "lognormal", "fixed")
_ORDERS = ("fifo", "lifo")
_ARRIVALS = ("open", "closed")

# field: lowest, highest, whole
_SERVER = {
    "workers": (1, 10_000, True),
    "mean": (1e-6, 3600, False),
    "queue": (0, 1_000_000, True),
    "shards": (1, 1000, True),
}
_TROUBLE = {
    "start": (0, 86_400, False),
    "end": (0, 86_400, False),
    "factor": (0.01, 10_000, False),
    "rate": (0, 1, False),
    "period": (0, 86_400, False),
    "client": (-1, 10_000, True),
    "shard": (-1, 1000, True),
}
_SCENARIO = {
    "duration": (1, 86_400, False),
    "clients": (1, 10_000, True),
    "load": (0.001, 100_000, False),
    "think": (0, 3600, False),
    "patience": (0.001, 86_400, False),
    "slots": (1, 100_000, True),
    "tiers": (1, 3, True),
}


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

    def __post_init__(self) -> None:
        faults = Faults("Server")
        _check_server(_given(self), faults, "")
        faults.finish()


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

    def __post_init__(self) -> None:
        faults = Faults("Trouble")
        _check_trouble(_given(self), faults, "")
        faults.finish()

    def active(self, now: float) -> bool:
        """Return whether it holds at `now`, seconds after the start of the scenario."""
        if not self.start <= now < self.end:
            return False
        return not self.period or (now - self.start) % self.period < self.period / 2


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
    server: Server = field(default_factory=Server)
    troubles: tuple[Trouble, ...] = ()

    def __post_init__(self) -> None:
        faults = Faults("Scenario")
        _check_scenario(_given(self), faults, "")
        faults.finish()

    @property
    def fault(self) -> tuple[float, float]:
        """When the first trouble begins and the last ends, seconds; without one, the middle half."""
        starts, ends = [one.start for one in self.troubles], [one.end for one in self.troubles]
        return (min(starts), max(ends)) if starts else (self.duration / 4, self.duration * 3 / 4)


def _given(one: Any) -> dict[str, Any]:
    return {name.name: getattr(one, name.name) for name in fields(one)}


def _check_numbers(
    given: Mapping[str, Any], spec: Mapping[str, tuple[float, float, bool]], faults: Faults, path: str
) -> None:
    for name, (low, high, whole) in spec.items():
        if name in given:
            faults.number(f"{path}{name}", given[name], low, high, whole=whole)


def _check_choice(
    given: Mapping[str, Any], name: str, choices: tuple[str, ...], faults: Faults, path: str
) -> None:
    if name in given:
        faults.check(
            given[name] in choices,
            f"{path}{name}",
            given[name],
            "is not known",
            f"give {' or '.join(choices)}",
        )


def _check_server(given: Mapping[str, Any], faults: Faults, path: str) -> None:
    _check_numbers(given, _SERVER, faults, path)
    _check_choice(given, "service", _SERVICES, faults, path)
    _check_choice(given, "order", _ORDERS, faults, path)
    shed = given.get("shed", False)
    faults.check(isinstance(shed, bool), f"{path}shed", shed, "is no truth value", "give true or false")
    workers, shards = given.get("workers", 10), given.get("shards", 1)
    if isinstance(workers, int) and isinstance(shards, int) and shards > 0:
        faults.check(
            workers % shards == 0,
            f"{path}workers",
            workers,
            f"cannot be spread over {shards} shards evenly",
            "give a multiple of the shards",
        )


def _check_trouble(given: Mapping[str, Any], faults: Faults, path: str) -> None:
    _check_choice(given, "kind", _KINDS, faults, path)
    _check_numbers(given, _TROUBLE, faults, path)
    start, end = given.get("start"), given.get("end")
    if isinstance(start, (int, float)) and isinstance(end, (int, float)):
        faults.check(start < end, f"{path}end", end, f"is not after start {start!r}", "give a later second")


def _check_scenario(given: Mapping[str, Any], faults: Faults, path: str) -> None:
    name = given.get("name")
    faults.check(isinstance(name, str) and name, f"{path}name", name, "is no name", "give text")
    _check_numbers(given, _SCENARIO, faults, path)
    _check_choice(given, "arrivals", _ARRIVALS, faults, path)


def _check_table(given: object, kind: type[Any], faults: Faults, path: str) -> dict[str, Any]:
    """Return a table of a file, after noting that it is none, which fields it lacks, and which it should not have."""
    if not is_dict(given):
        faults.add(path.rstrip("."), given, "is no table", "give fields and their values")
        return {}
    table: dict[str, Any] = given
    known = [one.name for one in fields(kind)]
    for name, value in table.items():
        faults.check(name in known, f"{path}{name}", value, "is not known", f"one of {', '.join(known)}")
    for name in ("kind", "start", "end"):
        faults.check(name in table or name not in known, f"{path}{name}", None, "is missing", "give it")
    return table


def _tables(given: object, faults: Faults, path: str, form: str) -> list[Any]:
    if is_list(given):
        return [*given]
    faults.add(path, given, "is no array of tables", f"write {form}")
    return []


def _read_one(given: object, faults: Faults, path: str) -> dict[str, Any]:
    # In the file a trouble is a [[scenario.trouble]].
    if is_dict(given):
        given = {"troubles" if name == "trouble" else name: value for name, value in given.items()}
    table = _check_table(given, Scenario, faults, path)
    _check_scenario(table, faults, path)
    says = table.get("says", "")
    faults.check(isinstance(says, str), f"{path}says", says, "is not text", "give text")
    server = _check_table(table.get("server", {}), Server, faults, f"{path}server.")
    _check_server(server, faults, f"{path}server.")
    troubles = _tables(table.get("troubles", []), faults, f"{path}trouble", "[[scenario.trouble]]")
    read = [
        _check_table(one, Trouble, faults, f"{path}trouble[{number}].") for number, one in enumerate(troubles)
    ]
    for number, one in enumerate(read):
        _check_trouble(one, faults, f"{path}trouble[{number}].")
    return {**table, "server": server, "troubles": read}


def load_scenarios(path: str | Path) -> dict[str, Scenario]:
    """Return the scenarios of a TOML file by name, in its order. ConfigurationError with every fault; OSError."""
    path = Path(path)
    faults = Faults(path.name)
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        faults.add(path.name, str(path), f"is no TOML: {error}", "correct it")
        faults.finish()
        raise
    return _read(document, faults)


def _read(document: dict[str, Any], faults: Faults) -> dict[str, Scenario]:
    for name, value in document.items():
        faults.check(name == "scenario", name, value, "is not known", "write [[scenario]]")
    tables = _tables(document.get("scenario"), faults, "scenario", "[[scenario]]")
    read = [_read_one(one, faults, f"scenario[{number}].") for number, one in enumerate(tables)]
    titles = [one.get("name") for one in read]
    for number, title in enumerate(titles):
        twice = title in titles[:number]
        faults.check(not twice, f"scenario[{number}].name", title, "is there twice", "give each its own")
    faults.finish()
    return {one["name"]: _made(one) for one in read}


def _made(table: dict[str, Any]) -> Scenario:
    parts: dict[str, Any] = {
        "server": Server(**table["server"]),
        "troubles": tuple(Trouble(**one) for one in table["troubles"]),
    }
    return Scenario(**{**table, **parts})


@cache
def _own() -> dict[str, Scenario]:
    return load_scenarios(Path(__file__).with_name("scenarios.toml"))


def scenarios() -> dict[str, Scenario]:
    """Return the lab's own scenarios by name, in the order of the documentation."""
    return dict(_own())
