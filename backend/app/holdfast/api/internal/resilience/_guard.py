"""The door: who a client is, and whether that is enough."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Annotated

from fastapi import Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from holdfast.api.internal.resilience.problems import _problem as problem

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from holdfast.api.internal.resilience.auth import ApiKeys
    from holdfast.api.internal.resilience.problems import Problem

LOCAL = "local"
_TENANT = "default"

_BEARER = HTTPBearer(scheme_name="bearer", description="An API key.", auto_error=False)
_HEADER = APIKeyHeader(
    name="X-API-Key", scheme_name="apiKey", description="An API key, where Bearer is taken.", auto_error=False
)
_SCOPE = "holdfast.client"
_REMEDY = "set HOLDFAST_API_KEYS=name:role:secret, then send the secret as a Bearer token or in X-API-Key"

# What they find is not used: they are there for the document.
_Bearer = Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)]
_Header = Annotated[str | None, Security(_HEADER)]


class Guard:
    """Let in who has a key, or, where there are no keys, who is on this machine."""

    def __init__(self, keys: ApiKeys) -> None:
        self._keys = keys

    async def visit(self, request: Request) -> None:
        """Refuse strangers while there are no keys; with keys everybody may come this far."""
        if not len(self._keys):
            _check_local(request.scope)

    async def read(self, request: Request, _bearer: _Bearer, _header: _Header) -> None:
        """Refuse who may not read."""
        self.check(request)

    def check(self, request: Request) -> str:
        """Refuse who may not read; return what the client may do."""
        return self._identify(request, _secret(request))

    async def operate(self, request: Request, _bearer: _Bearer, _header: _Header) -> None:
        """Refuse who may not operate."""
        if self.check(request) != "operate":
            raise problem(403, "This key may read, but not operate: use one with the role operate.")

    def may_read(self, request: Request) -> bool:
        """Return whether this client may read; for what is open to all, but tells some more."""
        try:
            self.check(request)
        except Exception:
            return False
        return True

    def _identify(self, request: Request, secret: str | None) -> str:
        if not len(self._keys):
            _check_local(request.scope)
            request.scope[_SCOPE] = (LOCAL, "operate", _TENANT)
            return "operate"
        key = None if secret is None else self._keys.find(secret)
        if key is None:
            raise _unknown(given=secret is not None)
        request.scope[_SCOPE] = (key.name, key.role, key.tenant)
        return key.role


def client(request: Request) -> str:
    """Return the name of the key that the client has; `local` where no key was asked for."""
    name: str = request.scope[_SCOPE][0]
    return name


def role(request: Request) -> str:
    """Return what the client may do."""
    may: str = request.scope[_SCOPE][1]
    return may


def tenant(request: Request) -> str:
    """Return whose jobs the client's key opens; the default one's where no key was asked for."""
    name: str = request.scope[_SCOPE][2]
    return name


@lru_cache(256)
def is_loopback(host: str) -> bool:
    """Return whether a host is this machine: localhost or a loopback address."""
    if host.rstrip(".").lower() == "localhost":
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


def _secret(request: Request) -> str | None:
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    given = secret.strip() if scheme.lower() == "bearer" and secret else request.headers.get("x-api-key")
    return given or None


def _unknown(*, given: bool) -> Problem:
    challenge = 'Bearer realm="holdfast"' + (', error="invalid_token"' if given else "")
    said = "This key is not known." if given else "An API key is needed: as a Bearer token, or in X-API-Key."
    return problem(401, said, headers={"WWW-Authenticate": challenge})


def _check_local(scope: Mapping[str, Any]) -> None:
    """Refuse what does not come from this machine, and pages of other sites whose name leads to it."""
    if not _from_here(scope):
        raise problem(403, f"Without API keys only clients on this machine are served: {_REMEDY}.")
    host = next((value for name, value in scope["headers"] if name == b"host"), b"")
    if not is_loopback(_hostname(host.decode("latin-1"))):
        raise problem(403, f"Without API keys the host must be localhost or a loopback address: {_REMEDY}.")


def _from_here(scope: Mapping[str, Any]) -> bool:
    address = scope.get("client")
    if address:
        return is_address_here(address[0])
    # A Unix socket: the server is a path, without a port.
    server: tuple[str, int | None] | None = scope.get("server")
    return server is not None and server[1] is None


def is_address_here(address: str) -> bool:
    """Return whether an address is one of this machine; a name is none."""
    return address != "localhost" and is_loopback(address.partition("%")[0])


def _hostname(host: str) -> str:
    """Return the name in a Host header, without its port and the brackets of IPv6."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
