"""What is asked of a run: orders, what each waits for, and where their code is; all faults are told at once."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sized
from dataclasses import dataclass, field
from math import isfinite
from typing import TYPE_CHECKING, Any

from holdfast.infrastructure.store._submission import circles
from holdfast.services.jobs.errors import JobsError
from holdfast.services.jobs.graphs._json import is_list, is_object

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

PRESIGN_MARGIN: float = 300.0
MOST_ORDERS: int = 10_000

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TRACE = re.compile(r"[A-Za-z0-9]{1,64}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NAMED = "1 to 100 of A-Z, a-z, 0-9, '.', '_' and '-', the first a letter or digit"
_KINDS: tuple[tuple[Any, str], ...] = (
    (str, "text"),
    (bool, "true or false"),
    (int | float, "a number"),
    ((list, tuple), "a list"),
    (Mapping, "an object"),
)
_LONGEST = 100 * 86_400.0
_JOB_TIMEOUT = 3600.0


class RequestRefusedError(JobsError, ValueError):
    """A request to run orders was refused whole: `status` as HTTP has it (400, 405, 409), `faults` a sentence each."""

    status: int
    faults: tuple[str, ...]

    def __init__(self, status: int, faults: Sequence[str]) -> None:
        super().__init__(status, tuple(faults))
        self.status, self.faults = status, tuple(faults)

    def __str__(self) -> str:
        """List the faults."""
        return "no run was started:\n  " + "\n  ".join(self.faults)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One order of a run: shell commands, one after the other, until one fails. `timeout` in seconds, for all of them.

    `code` is where its code lies, by default the run's repository. `depends_on` names other orders; `must_succeed`
    false: its failure fails nothing. `secrets` are variables, too, which are kept encrypted.
    """

    name: str
    commands: tuple[str, ...]
    timeout: float
    code: str = ""
    depends_on: tuple[str, ...] = ()
    must_succeed: bool = True
    target: str = "local"
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    secrets: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """A run that is asked for, valid. Durations are seconds.

    `token_location` says where the repository's token is, never the token. `presign_expiry`: how long addresses of
    stored objects are good for. `run_id` and `trace_id` are made up where they are empty.
    """

    orders: tuple[Order, ...]
    user: str
    label: str
    repository: str = ""
    token_location: str = ""
    pull_request: int | None = None
    issue: int | None = None
    search_tag: str = ""
    presign_expiry: float = 0.0
    job_timeout: float = 3600.0
    run_id: str = ""
    trace_id: str = ""


def parse_request(document: object, *, targets: Collection[str] = ("local",)) -> RunRequest:
    """Return the run that a document (of JSON's types) asks for. RequestRefusedError (400) has every fault.

    `targets` are those there are. Without `presign_expiry`, addresses are good for the longest timeout + 300 s.
    """
    return _Reader(targets).request(document)


class _Reader:
    """Reads a document and notes what is wrong with it."""

    def __init__(self, targets: Collection[str]) -> None:
        self._targets = targets
        self._faults: list[str] = []

    def request(self, document: object) -> RunRequest:
        """Return what is asked for, or raise with all faults."""
        if not is_object(document):
            raise RequestRefusedError(400, [f"the request is {_kind(document)}; give an object"])
        job = _Fields(document, "", self._faults)
        repository = job.text("repository")
        orders = self._orders(job.take("orders"), repository)
        longest = max((order.timeout for order in orders), default=0.0)
        request = RunRequest(
            orders=tuple(orders),
            user=job.text("user", like=_NAME, said=_NAMED, needed=True),
            label=job.text("label", like=_NAME, said=_NAMED, needed=True),
            repository=repository,
            token_location=job.text("token_location"),
            pull_request=job.number("pull_request"),
            issue=job.number("issue"),
            search_tag=job.text("search_tag"),
            presign_expiry=job.seconds("presign_expiry", longest + PRESIGN_MARGIN),
            job_timeout=job.seconds("job_timeout", _JOB_TIMEOUT),
            run_id=job.text("run_id", like=_ID, said="1 to 64 of A-Z, a-z, 0-9, '_' and '-'"),
            trace_id=job.text("trace_id", like=_TRACE, said="1 to 64 letters and digits"),
        )
        job.finish()
        self._check_presign(request, longest)
        self._check_graph(orders)
        if self._faults:
            raise RequestRefusedError(400, self._faults)
        return request

    def _orders(self, given: object, repository: str) -> list[Order]:
        if not is_list(given) or not given:
            self._faults.append("there are no orders; give at least one in 'orders'")
            return []
        if len(given) > MOST_ORDERS:
            self._faults.append(f"there are {len(given)} orders; give {MOST_ORDERS} at most")
            return []
        orders: list[Order] = []
        for number, entry in enumerate(given, 1):
            if is_object(entry):
                orders.append(self._order(entry, number, repository))
            else:
                self._faults.append(f"order {number} is {_kind(entry)}; give an object")
        return orders

    def _order(self, entry: Mapping[Any, Any], number: int, repository: str) -> Order:
        name = entry.get("name")
        said = f"order {name!r}" if isinstance(name, str) and name else f"order {number}"
        given = _Fields(entry, f"{said}: ", self._faults)
        order = Order(
            name=given.text("name", like=_NAME, said=_NAMED, needed=True),
            commands=given.texts("commands", needed=True),
            timeout=given.seconds("timeout", None),
            code=given.text("code"),
            depends_on=given.texts("depends_on"),
            must_succeed=given.flag("must_succeed", default=True),
            target=given.text("target") or "local",
            environment=given.variables("environment"),
            secrets=given.variables("secrets"),
        )
        given.finish()
        if not order.code and not repository:
            self._faults.append(f"{said} has no code source; give it 'code', or the request a 'repository'")
        if order.target not in self._targets:
            known = ", ".join(sorted(self._targets)) or "there is none"
            self._faults.append(f"{said}: target {order.target!r} is unknown; give one of: {known}")
        return order

    def _check_presign(self, request: RunRequest, longest: float) -> None:
        needed = longest + PRESIGN_MARGIN
        if 0 < request.presign_expiry < needed:
            self._faults.append(
                f"presign_expiry {request.presign_expiry:g} s is shorter than the longest timeout + "
                f"{PRESIGN_MARGIN:g} s; give {needed:g} at least"
            )

    def _check_graph(self, orders: Iterable[Order]) -> None:
        waits: dict[str, tuple[str, ...]] = {}
        for order in orders:
            if order.name in waits:
                self._faults.append(f"order {order.name!r} is there twice; give each a name of its own")
            waits.setdefault(order.name, order.depends_on)
        for name, dependencies in waits.items():
            self._faults += [
                f"order {name!r} depends on {one!r}, which is not in this run"
                for one in dependencies
                if one not in waits
            ]
        for found in circles(waits):
            self._faults.append(
                f"orders {' → '.join(map(repr, found))} wait for each other; drop one dependency"
            )


class _Fields:
    """The fields of one object, each taken once; what is left over is unknown."""

    def __init__(self, given: Mapping[Any, Any], where: str, faults: list[str]) -> None:
        self._left = dict(given)
        self._where = where
        self._faults = faults

    def take(self, name: str) -> Any:
        """Return a field; None if it is not there."""
        return self._left.pop(name, None)

    def finish(self) -> None:
        """Note what nobody took."""
        for name in self._left:
            self._fault(f"field {name!r} is unknown; drop it")

    def text(
        self, name: str, *, like: re.Pattern[str] | None = None, said: str = "", needed: bool = False
    ) -> str:
        """Return a text, empty if it is not there."""
        value = self.take(name)
        if value is None or value == "":
            if needed:
                self._fault(f"{name!r} is missing; give {said}")
            return ""
        if not isinstance(value, str) or not _storable(value):
            self._fault(f"{name!r} is {_kind(value)}; give text without zero bytes")
            return ""
        if like is not None and not like.fullmatch(value):
            self._fault(f"{name!r} is {value!r}; give {said}")
        return value

    def texts(self, name: str, *, needed: bool = False) -> tuple[str, ...]:
        """Return a list of texts that are not empty."""
        value = self.take(name)
        if value is None and not needed:
            return ()
        if not is_list(value) or (needed and not value):
            self._fault(
                f"{name!r} is {_kind(value)}; give a list of texts" + (", at least one" if needed else "")
            )
            return ()
        if not all(isinstance(one, str) and one.strip() and _storable(one) for one in value):
            self._fault(f"{name!r} has an entry that is empty or no text; drop it")
            return ()
        return tuple(dict.fromkeys(value)) if name == "depends_on" else tuple(value)

    def seconds(self, name: str, default: float | None) -> float:
        """Return a duration above 0."""
        value = self.take(name)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
            self._fault(f"{name!r} is {_kind(value)}; give seconds above 0")
        elif not 0 < value <= _LONGEST:
            self._fault(f"{name!r} is {value:g}; give seconds above 0, {_LONGEST:g} at most")
        else:
            return float(value)
        return default or 0.0

    def number(self, name: str) -> int | None:
        """Return a whole number from 1, None if it is not there."""
        value = self.take(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            self._fault(f"{name!r} is {value!r}; give a whole number from 1")
            return None
        return value

    def flag(self, name: str, *, default: bool) -> bool:
        """Return true or false."""
        value = self.take(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            self._fault(f"{name!r} is {value!r}; give true or false")
            return default
        return value

    def variables(self, field: str) -> dict[str, str]:
        """Return names and values of variables."""
        value = self.take(field)
        if value is None:
            return {}
        if not is_object(value):
            self._fault(f"{field!r} is {_kind(value)}; give an object of texts")
            return {}
        return dict(self._variables(field, value))

    def _variables(self, field: str, given: Mapping[Any, Any]) -> Iterator[tuple[str, str]]:
        for name, value in given.items():
            if not isinstance(name, str) or not _VARIABLE.fullmatch(name):
                self._fault(f"{field!r} names {name!r}; give letters, digits and '_'")
            elif not isinstance(value, str) or not _storable(value):
                self._fault(f"{field!r} gives {name} {_kind(value)}; give text without zero bytes")
            else:
                yield name, value

    def _fault(self, said: str) -> None:
        self._faults.append(f"{self._where}{said}")


def _storable(text: str) -> bool:
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def _kind(value: Any) -> str:
    if value is None:
        return "missing"
    for kind, said in _KINDS:
        if isinstance(value, kind):
            empty = isinstance(value, Sized) and not len(value)
            return f"an empty {said.split()[-1]}" if empty else said
    return str(type(value).__name__)
