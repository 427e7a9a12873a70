"""Tell errors that pass from errors that stay: the table that retry and breaker share."""

from collections.abc import Callable, Mapping
from enum import Enum
from typing import TypeAlias

class Verdict(Enum):
    """What an error says about trying again."""

    TRANSIENT = "transient"
    THROTTLED = "throttled"
    PERMANENT = "permanent"

TRANSIENT: Verdict
THROTTLED: Verdict
PERMANENT: Verdict

Errors: TypeAlias = (
    Verdict
    | type[Exception]
    | tuple[type[Exception], ...]
    | Classifier
    | Callable[[Exception], bool | Verdict]
)

class Classifier:
    """An immutable table from errors to verdicts; safe to share.

    Looked up by predicate first, then by the most specific listed type, then by status, then by the default table
    (connection and timeout errors and the statuses 408, 425, 429, 500, 502, 503, 504 are transient, all else
    permanent). What is listed as transient is throttled when it says when to come back.
    """

    def __init__(
        self,
        *,
        transient: tuple[type[Exception], ...] = (),
        permanent: tuple[type[Exception], ...] = (),
        statuses: Mapping[int, Verdict] | None = None,
        predicates: tuple[Callable[[Exception], Verdict | None], ...] = (),
    ) -> None: ...
    def classify(self, error: BaseException) -> Verdict:
        """Return the verdict on `error`; what is not an `Exception` is permanent.

        A predicate that raises is not caught: the policy that asked counts the call as failed.
        """

    def extend(
        self,
        *,
        transient: tuple[type[Exception], ...] = (),
        permanent: tuple[type[Exception], ...] = (),
        statuses: Mapping[int, Verdict] | None = None,
        predicates: tuple[Callable[[Exception], Verdict | None], ...] = (),
    ) -> Classifier:
        """Return a classifier in which the given rules come before this one's."""

def classify(error: BaseException) -> Verdict:
    """Return the default classifier's verdict on `error`."""

def retry_after(error: BaseException) -> float | None:
    """Return the seconds after which the server asks to come back, from `error.retry_after` or a `Retry-After` header.

    Both forms of RFC 9110, 10.2.3 are read; past dates, negative numbers and garbage give None.
    """

def parse_retry_after(value: str, *, now: float | None = None) -> float | None:
    """Return the seconds in a `Retry-After` value; `now` is Unix time, for the date form. None for past or garbage."""

def register_classifier(
    library: str, classifier: Callable[[Exception], Verdict | None]
) -> Callable[[], None]:
    """Let `classifier` judge errors whose type comes from the top-level package `library`; return how to undo it.

    It returns None for errors that it has no opinion on. The latest of several is asked first.
    """
