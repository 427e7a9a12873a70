"""Who may read and who may operate: API keys with roles."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import Iterable, Mapping

from holdfast.infrastructure.resilience._frozen import Faults, Frozen
from holdfast.infrastructure.resilience.errors import ConfigurationError

_ROLES = ("read", "operate")
_VARIABLE = "HOLDFAST_API_KEYS"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_TENANT = re.compile(r"[a-z0-9_-]{1,48}")
# What a header can carry as it is, without the comma that separates keys.
_SECRET = re.compile(r"[!-+\--~]{16,512}")
_MANY = 1000


class ApiKey(Frozen):
    """A key's `name`, which the audit trail shows, its secret's digest, and its role: `read`, or `operate` (and read).

    `tenant`: whose jobs it opens. A secret is 16 to 512 visible ASCII characters, no comma. ConfigurationError with
    every fault.
    """

    __slots__ = ("_digest", "name", "role", "tenant")

    name: str
    role: str
    tenant: str
    _digest: bytes

    def __init__(self, name: str, secret: str, role: str = "read", *, tenant: str = "default") -> None:
        faults = Faults("ApiKey")
        _check(faults, name, role, secret, tenant)
        faults.finish()
        self._set(_digest=_digest(secret), name=name, role=role, tenant=tenant)

    def matches(self, secret: str) -> bool:
        """Return whether `secret` is the key's, in constant time."""
        return hmac.compare_digest(self._digest, _digest(secret))

    def __repr__(self) -> str:
        """Show name, role and tenant; of the secret not even the digest."""
        return f"ApiKey({self.name!r}, role={self.role!r}, tenant={self.tenant!r})"


class ApiKeys:
    """The keys that open an API. Without any, only clients on loopback are served."""

    def __init__(self, keys: Iterable[ApiKey] = ()) -> None:
        self._keys = tuple(keys)
        faults = Faults("ApiKeys")
        for at, key in enumerate(self._keys):
            faults.check(isinstance(key, ApiKey), f"keys[{at}]", key, "is no ApiKey", "give ApiKey objects")
        faults.finish()
        _check_unique(faults, self._keys)
        faults.finish()

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] | None = None) -> ApiKeys:
        """Read `HOLDFAST_API_KEYS`: `name:role:secret` or `name:role@tenant:secret`, separated by commas or lines.

        ConfigurationError with every fault; it shows no part of a key.
        """
        text = (os.environ if environ is None else environ).get(_VARIABLE, "")
        lines = [line for part in re.split(r"[,\n]", text) if (line := part.strip())]
        faults = Faults(_VARIABLE)
        faults.check(len(lines) <= _MANY, "keys", len(lines), "are too many", f"give at most {_MANY}")
        keys = [_read(faults, at, line) for at, line in enumerate(lines[:_MANY])]
        made = tuple(key for key in keys if key is not None)
        _check_unique(faults, made)
        faults.finish()
        return cls(made)

    def find(self, secret: str) -> ApiKey | None:
        """Return the key with that secret, or None; every key is compared, in constant time."""
        given, found = _digest(secret), None
        for key in self._keys:
            if hmac.compare_digest(key._digest, given):
                found = key
        return found

    def __len__(self) -> int:
        """Return how many keys there are."""
        return len(self._keys)

    def __repr__(self) -> str:
        """Show names and roles."""
        return f"ApiKeys({list(self._keys)!r})"


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


def _check(faults: Faults, name: object, role: object, secret: object, tenant: object) -> None:
    """Note what is wrong with a key; a secret is never shown."""
    faults.check(
        isinstance(name, str) and _NAME.fullmatch(name),
        "name",
        name,
        "is no name for a key",
        "give 1 to 64 letters, digits, and . _ @ -",
    )
    faults.check(role in _ROLES, "role", role, "is no role", "give read or operate")
    faults.check(
        isinstance(tenant, str) and _TENANT.fullmatch(tenant),
        "tenant",
        tenant,
        "is no name for a tenant",
        "give 1 to 48 of a-z, 0-9, - and _",
    )
    faults.check(
        isinstance(secret, str) and _SECRET.fullmatch(secret),
        "secret",
        "(not shown)",
        "is no secret",
        "give 16 to 512 visible ASCII characters without a comma; "
        'python -c "import secrets; print(secrets.token_urlsafe())" makes one',
    )


def _read(faults: Faults, at: int, line: str) -> ApiKey | None:
    parts = line.split(":", 2)
    if len(parts) < len(("name", "role", "secret")):
        # Whatever it is, it may be a secret.
        faults.add(f"keys[{at}]", "(not shown)", "is no key", "write name:role:secret")
        return None
    name, given, secret = (part.strip() for part in parts)
    role, at_sign, tenant = given.partition("@")
    try:
        return ApiKey(name, secret, role, tenant=tenant if at_sign else "default")
    except ConfigurationError as error:
        # Not the values: whoever mixed up the order wrote the secret in another place.
        for fault in error.faults:
            faults.add(f"keys[{at}].{fault.path}", "(not shown)", fault.problem, fault.remedy)
        return None


def _check_unique(faults: Faults, keys: tuple[ApiKey, ...]) -> None:
    names: dict[str, int] = {}
    digests: dict[bytes, int] = {}
    for at, key in enumerate(keys):
        first = names.setdefault(key.name, at)
        faults.check(first == at, f"keys[{at}].name", key.name, "is taken", f"keys[{first}] has it already")
        same = digests.setdefault(key._digest, at)
        faults.check(
            same == at, f"keys[{at}].secret", "(not shown)", "is taken", f"keys[{same}] has it already"
        )
