"""One DynamoDB table, of which every item has a partition `p` and a place `s` in it. Reads are consistent; no scan.

Every item has a partition `p` and a place `s`; each `p` begins with the tenant's name and `/`:

| p | s | what |
|---|---|---|
| `T` | `counter` | numbers for new jobs |
| `T/job/ID` | `head` | the job, its counters, and the revision of each group of steps |
| `T/job/ID` | `N/d…`, `N/g…` | N is the job's number: definitions of steps, and what changes of them, 128 in an item |
| `T/job/ID` | `N/e…`, `N/v…` | events, an item for each commit; what has more than 256 bytes, by its SHA-256 |
| `T/jobs` | N | all jobs, in order |
| `T/open` | priority/N | jobs that go on: what they have to do, when they are due, who holds steps |
| `T/batch/ID` | `head`, `jN` | a batch, and the states of its jobs |
| `T/dedup/KEY` | `head` | the job of a deduplication key |
| `T/workers` | ID | leases |
| `T/lock/NAME` | `head` | a lock |
| `/tenants` | T | the tenants |

A change of a job is one transaction: the head under its revision, the groups that changed, one item of events, the
index, and a look at the worker's lease. Who was slower reads anew and tries again. What a transaction refers to is
written before it; a crash between leaves nothing that anybody sees.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from holdfast.infrastructure.resilience.backoff import Backoff
from holdfast.infrastructure.resilience.clock import current_clock
from holdfast.infrastructure.resilience.randomness import current_random
from holdfast.infrastructure.store import _aws
from holdfast.infrastructure.store.state import StoreError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

Key = tuple[str, str]
Item = dict[str, Any]
MOST_ACTIONS = 100
"""How many items a transaction may touch."""

_BATCH_READ, _BATCH_WRITE = 100, 25
_FAILED = "ConditionalCheckFailed"
_AGAIN = Backoff(base=0.01, cap=0.5)
_MOST_TRIES = 60
_MOST_BYTES = 3_900_000


class ConditionFailedError(Exception):
    """What was to be true of an item is not: `which` are the names of the conditions; empty if others were faster."""

    def __init__(self, which: Sequence[str] = ()) -> None:
        super().__init__(tuple(which))
        self.which = tuple(which)


class TooLargeError(StoreError):
    """Something is larger than DynamoDB takes, and there is no blob store for it; nothing was stored."""

    size: int

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size

    def __str__(self) -> str:
        """Say how large, and the remedy."""
        return (
            f"{self.size} bytes are more than DynamoDB takes at once; give the store `blobs`, or smaller jobs"
        )


class Table:
    """A table of this shape."""

    def __init__(self, client: Any, name: str, retry: Any = None) -> None:
        self.name = name
        self._service = _aws.Service(client, f"table {name!r}", retry)

    def get(self, key: Key) -> Item | None:
        """Return an item, None if there is none."""
        answer = self._service.call("get_item", TableName=self.name, Key=_key(key), ConsistentRead=True)
        found = answer.get("Item")
        return None if found is None else _read(found)

    def get_all(self, keys: Iterable[Key]) -> dict[Key, Item]:
        """Return the items that are there, each as it is at some moment of the call."""
        left, found, tries = [_key(key) for key in dict.fromkeys(keys)], dict[Key, Item](), 0
        while left:
            asked = {self.name: {"Keys": left[:_BATCH_READ], "ConsistentRead": True}}
            answer = self._service.call("batch_get_item", RequestItems=asked)
            items = [_read(item) for item in answer["Responses"].get(self.name, ())]
            found.update(((item["p"], item["s"]), item) for item in items)
            unread = answer.get("UnprocessedKeys", {}).get(self.name, {}).get("Keys", [])
            left = unread + left[_BATCH_READ:]
            if unread and not items:
                tries += 1
                if tries == _MOST_TRIES:
                    raise self.busy()
                pause(tries)
        return found

    def query(
        self, partition: str, *, first: str = "", last: str = "~", backwards: bool = False
    ) -> Iterator[Item]:
        """Yield the items of a partition in order, page by page; with `first`, from that place to `last`."""
        places = {":first": first, ":last": last} if first else {}
        request: dict[str, Any] = {
            "TableName": self.name,
            "ConsistentRead": True,
            "ScanIndexForward": not backwards,
            "KeyConditionExpression": "p = :p AND s BETWEEN :first AND :last" if first else "p = :p",
            "ExpressionAttributeValues": _written({":p": partition, **places}),
        }
        while True:
            page = self._service.call("query", **request)
            for item in page["Items"]:
                yield _read(item)
            if "LastEvaluatedKey" not in page:
                return
            request["ExclusiveStartKey"] = page["LastEvaluatedKey"]

    def put(self, item: Mapping[str, Any]) -> None:
        """Store an item."""
        self._service.call("put_item", TableName=self.name, Item=_written(item))

    def update(
        self, key: Key, what: str, values: Mapping[str, Any], *, when: str = "", old: bool = False
    ) -> Item:
        """Change an item and return it as it is then, or was with `old`. ConditionFailedError unless `when` is true."""
        request: dict[str, Any] = {
            "TableName": self.name,
            "Key": _key(key),
            "UpdateExpression": what,
            "ReturnValues": "ALL_OLD" if old else "ALL_NEW",
            **_expressed(f"{what} {when}", values),
        }
        if when:
            request["ConditionExpression"] = when
        try:
            answer = self._service.call("update_item", **request)
        except Exception as error:
            raise _failed(error, ["item"]) from error
        return _read(answer.get("Attributes", {}))

    def delete(self, key: Key, *, when: str = "", values: Mapping[str, Any] | None = None) -> None:
        """Remove an item. ConditionFailedError unless `when` is true."""
        request: dict[str, Any] = {"TableName": self.name, "Key": _key(key)}
        if when:
            request |= {"ConditionExpression": when, **_expressed(when, values or {})}
        try:
            self._service.call("delete_item", **request)
        except Exception as error:
            raise _failed(error, ["item"]) from error

    def write_all(self, items: Iterable[Mapping[str, Any]] = (), gone: Iterable[Key] = ()) -> None:
        """Store and remove items, each by itself."""
        left: list[Any] = [{"PutRequest": {"Item": _written(item)}} for item in items]
        left += [{"DeleteRequest": {"Key": _key(key)}} for key in gone]
        tries = 0
        while left:
            answer = self._service.call("batch_write_item", RequestItems={self.name: left[:_BATCH_WRITE]})
            unwritten = answer.get("UnprocessedItems", {}).get(self.name, [])
            left = unwritten + left[_BATCH_WRITE:]
            if unwritten:
                tries += 1
                if tries == _MOST_TRIES:
                    raise self.busy()
                pause(tries)

    def transact(self, actions: Sequence[Action], mark: str) -> None:
        """Do all, or nothing. ConditionFailedError names what was not true; `mark` lets a repeated call count once."""
        size = sum(action.size for action in actions)
        if size > _MOST_BYTES:
            raise TooLargeError(size)
        try:
            self._service.call(
                "transact_write_items",
                TransactItems=[action.said(self.name) for action in actions],
                ClientRequestToken=mark,
            )
        except Exception as error:
            raise _failed(error, [action.name for action in actions]) from error

    def busy(self) -> StoreUnavailableError:
        """Return the error of who was never served."""
        return StoreUnavailableError(
            f"table {self.name!r}", "others were faster each time", "try again later"
        )


class Action:
    """A part of a transaction; `name` is what it is called if its condition fails."""

    __slots__ = ("_kind", "_request", "name")

    def __init__(self, name: str, kind: str, request: dict[str, Any]) -> None:
        self.name, self._kind, self._request = name, kind, request

    @classmethod
    def put(cls, item: Mapping[str, Any], name: str = "", *, when: str = "", **values: Any) -> Action:
        """Store an item."""
        return cls(name, "Put", {"Item": _written(item), **_condition(when, values)})

    @classmethod
    def delete(cls, key: Key, name: str = "", *, when: str = "", **values: Any) -> Action:
        """Remove an item."""
        return cls(name, "Delete", {"Key": _key(key), **_condition(when, values)})

    @classmethod
    def check(cls, key: Key, name: str, *, when: str, **values: Any) -> Action:
        """Only look."""
        return cls(name, "ConditionCheck", {"Key": _key(key), **_condition(when, values)})

    @property
    def size(self) -> int:
        """About how many bytes it is."""
        item: dict[str, Any] = self._request.get("Item", {})
        return sum(len(value["B"]) if "B" in value else 50 for value in item.values())

    def said(self, table: str) -> dict[str, Any]:
        """Return it as boto3 takes it."""
        return {self._kind: {"TableName": table, **self._request}}


def pause(tries: int) -> None:
    """Wait before another try, longer each time."""
    current_clock().sleep(_AGAIN.delay(min(tries + 1, 10), random=current_random()))


def number(value: float) -> Decimal:
    """Return a number as DynamoDB keeps it: exactly."""
    return Decimal(repr(value))


def _condition(when: str, values: Mapping[str, Any]) -> dict[str, Any]:
    if not when:
        return {}
    named = {f":{name}": value for name, value in values.items()}
    return {"ConditionExpression": when, **_expressed(when, named)}


def _expressed(expression: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values and names of an expression; `#x` stands for the attribute `x`, whose name may be reserved."""
    names = {f"#{name}": name for name in _NAMES if f"#{name}" in expression}
    made: dict[str, Any] = {"ExpressionAttributeNames": names} if names else {}
    return made | ({"ExpressionAttributeValues": _written(values)} if values else {})


_NAMES = ("owner", "fence", "ends", "dirty", "gone", "locks", "rev", "num", "total", "cancelled")


def _failed(error: BaseException, names: Sequence[str]) -> Exception:
    """Return what a failed condition means; another error stays as it is."""
    code = _aws.error_code(error)
    if code == "ConditionalCheckFailedException":
        return ConditionFailedError(names)
    if code != "TransactionCanceledException":
        return error if isinstance(error, Exception) else RuntimeError(error)
    told = [str(reason.get("Code")) for reason in _aws.reasons(error)]
    failed = [name for name, why in zip(names, told, strict=False) if why == _FAILED]
    if failed or "TransactionConflict" in told:
        return ConditionFailedError(failed)
    return error if isinstance(error, Exception) else RuntimeError(error)


def _key(key: Key) -> dict[str, Any]:
    return {"p": {"S": key[0]}, "s": {"S": key[1]}}


def _written(item: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _value(value) for name, value in item.items()}


def _value(value: str | bytes | float | Decimal | frozenset[str]) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"BOOL": value}
    if isinstance(value, int | Decimal):
        return {"N": str(value)}
    if isinstance(value, frozenset):
        return {"SS": sorted(value)}
    return {"B": value} if isinstance(value, bytes) else {"S": value}


def _read(item: Mapping[str, Any]) -> Item:
    return {name: _plain(*value.items()) for name, value in item.items()}


def _plain(said: tuple[str, Any]) -> Any:
    kind, value = said
    if kind == "N":
        return Decimal(value)
    return frozenset(value) if kind == "SS" else value
