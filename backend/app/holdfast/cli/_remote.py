"""A running service's internal API, as the commands use it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx

from holdfast.cli._exit import Code, Stop

if TYPE_CHECKING:
    from types import TracebackType

DEFAULT_URL = "http://127.0.0.1:8642/internal/resilience"
_CODES = {
    401: Code.NOT_ALLOWED,
    403: Code.NOT_ALLOWED,
    404: Code.WRONG_USE,
    409: Code.WANTING,
    422: Code.WANTING,
}


def segment(name: str) -> str:
    """Return a name as it stands in a path."""
    return quote(name, safe="")


class Remote:
    """A client of the internal API at `url`; every failure is a `Stop` that says what to do."""

    def __init__(self, url: str, key: str | None, *, timeout: float = 10.0) -> None:
        if not url.startswith(("http://", "https://")):
            raise Stop(Code.WRONG_USE, f"--url is {url!r}: give an address such as {DEFAULT_URL}")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._url = url.rstrip("/")
        self._client = httpx.Client(headers=headers, timeout=timeout)

    def __enter__(self) -> Remote:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connections."""
        self._client.close()

    def get(self, path: str, **params: Any) -> Any:
        """Return the JSON answer of a GET; parameters that are None are left out."""
        given = {name: value for name, value in params.items() if value is not None}
        return self._ask("GET", path, params=given)

    def post(self, path: str, body: Any = None) -> Any:
        """Return the JSON answer of a POST."""
        return self._ask("POST", path, json={} if body is None else body)

    def _ask(self, method: str, path: str, **options: Any) -> Any:
        try:
            response = self._client.request(method, self._url + path, **options)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = str(error) or type(error).__name__
            raise Stop(
                Code.UNREACHABLE, f"{self._url} does not answer ({reason}): is the service running? See --url"
            ) from None
        if response.is_success:
            return _json(response, self._url)
        raise _stop(response)


def _json(response: httpx.Response, url: str) -> Any:
    try:
        return response.json()
    except ValueError:
        raise Stop(Code.UNREACHABLE, f"{url} answers, but not as this API does: check --url") from None


def _stop(response: httpx.Response) -> Stop:
    code = _CODES.get(response.status_code, Code.UNREACHABLE)
    try:
        problem: dict[str, Any] = response.json()
        said = problem.get("detail") or problem.get("title")
    except (ValueError, AttributeError):
        problem, said = {}, None
    lines = [f"{response.status_code}: {said or response.reason_phrase}"]
    if code is Code.NOT_ALLOWED:
        lines.append("give a key that may: --key, or HOLDFAST_API_KEY in the environment")
    lines += [f"  {fault.get('path')}: {fault.get('problem')}" for fault in problem.get("faults", ())]
    return Stop(code, "\n".join(lines))
