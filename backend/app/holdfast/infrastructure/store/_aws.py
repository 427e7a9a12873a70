"""Calls to AWS: one client per service and address, retried by our own policies under one budget, in our own errors."""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from holdfast.infrastructure.resilience.backoff import Backoff
from holdfast.infrastructure.resilience.budget import RetryBudget
from holdfast.infrastructure.resilience.classify import PERMANENT, THROTTLED, TRANSIENT, Verdict
from holdfast.infrastructure.resilience.retry import Retry
from holdfast.infrastructure.store.state import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")
_THROTTLING = frozenset(
    {
        "LimitExceededException",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "SlowDown",
        "ThrottledException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
_PASSING = frozenset(
    {
        "ConditionalRequestConflict",
        "InternalError",
        "InternalServerError",
        "OperationAborted",
        "RequestTimeout",
        "ServiceUnavailable",
        "TransactionConflictException",
        "TransactionInProgressException",
    }
)
_SERVER_FAULT = 500
_REASON = "TransactionCanceledException"


@lru_cache(maxsize=32)
def client(service: str, region: str | None = None, endpoint: str | None = None) -> Any:
    """Return the client of a service, which threads may share; botocore's own retries are off, ours do it."""
    config = import_module("botocore.config").Config(
        retries={"total_max_attempts": 1},
        connect_timeout=5,
        read_timeout=30,
        max_pool_connections=32,
        parameter_validation=service != "dynamodb",
        signature_version="s3v4" if service == "s3" else None,
    )
    boto3 = import_module("boto3")
    return boto3.client(service, region_name=region, endpoint_url=endpoint, config=config)


def error_code(error: BaseException) -> str:
    """Return what AWS calls an error; "" for one that is not from AWS."""
    response: Any = getattr(error, "response", None) or {}
    return str(response.get("Error", {}).get("Code", "")) if hasattr(response, "get") else ""


def reasons(error: BaseException) -> list[Any]:
    """Return why each part of a transaction was cancelled; none for another error."""
    response: Any = getattr(error, "response", None)
    return list(response.get("CancellationReasons", [])) if error_code(error) == _REASON else []


def verdict(error: Exception) -> Verdict:
    """Return whether a call that failed so may be made again."""
    code = error_code(error)
    if code == _REASON:
        return _verdict_of_reasons({str(reason.get("Code")) for reason in reasons(error)})
    if code:
        response: Any = getattr(error, "response", {})
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        passing = code in _PASSING or status >= _SERVER_FAULT
        return THROTTLED if code in _THROTTLING else TRANSIENT if passing else PERMANENT
    return TRANSIENT if _lost(error) else PERMANENT


def _verdict_of_reasons(codes: set[str]) -> Verdict:
    # Who lost against another reads anew before trying again: that is no business of this retry.
    if codes & {"ConditionalCheckFailed", "TransactionConflict"}:
        return PERMANENT
    return THROTTLED if codes & {"ThrottlingError", "ProvisionedThroughputExceeded"} else PERMANENT


def _lost(error: BaseException) -> bool:
    """Return whether a connection was not made, or broke."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"HTTPClientError", "ConnectionError", "EndpointConnectionError", "ReadTimeoutError"})


def new_retry(name: str) -> Retry:
    """Return how calls to one service are retried: six attempts within 20 s, on a budget as the AWS SDKs have it."""
    return Retry(
        6,
        wait=Backoff(base=0.05, cap=2.0),
        on=verdict,
        deadline=20.0,
        budget=RetryBudget.aws(name),
        name=name,
    )


class Service:
    """Calls to one service of AWS. `where` names it in errors. Threads may share it."""

    def __init__(self, client: Any, where: str, retry: Retry | None = None) -> None:
        self.client, self.where = client, where
        self._retry = new_retry(client.meta.service_model.service_name) if retry is None else retry

    def call(self, operation: str, /, **request: Any) -> Any:
        """Make a call. Errors that say something about the request are botocore's, else StoreUnavailableError."""
        return self.run(lambda: getattr(self.client, operation)(**request))

    def run(self, attempt: Callable[[], _T]) -> _T:
        """Do something that calls, as often as the retry lets it; errors as in `call`."""
        try:
            return self._retry.call(attempt)
        except Exception as error:
            if verdict(error) is PERMANENT and error_code(error) not in _REFUSED:
                raise
            raise self.unavailable(error) from error

    def unavailable(self, error: BaseException) -> StoreUnavailableError:
        """Return an error as ours."""
        code = error_code(error)
        remedy = (
            "look at its name, its region and the rights of the role"
            if code in _REFUSED
            else "try again later"
        )
        return StoreUnavailableError(self.where, str(error), remedy, certain=bool(code))


_REFUSED = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "NoSuchBucket",
        "ResourceNotFoundException",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
