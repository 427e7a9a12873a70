"""Who may read and who may operate: API keys with roles."""

from collections.abc import Iterable, Mapping

class ApiKey:
    """A key's `name`, which the audit trail shows, its secret's digest, and its role: `read`, or `operate` (and read).

    `tenant`: whose jobs it opens. A secret is 16 to 512 visible ASCII characters, no comma. ConfigurationError with
    every fault.
    """

    name: str
    role: str
    tenant: str
    def __init__(self, name: str, secret: str, role: str = "read", *, tenant: str = "default") -> None: ...
    def __eq__(self, other: object) -> bool: ...
    def __hash__(self) -> int: ...
    def matches(self, secret: str) -> bool:
        """Return whether `secret` is the key's, in constant time."""

class ApiKeys:
    """The keys that open an API. Without any, only clients on loopback are served."""

    def __init__(self, keys: Iterable[ApiKey] = ()) -> None: ...
    @classmethod
    def from_environ(cls, environ: Mapping[str, str] | None = None) -> ApiKeys:
        """Read `HOLDFAST_API_KEYS`: `name:role:secret` or `name:role@tenant:secret`, separated by commas or lines.

        ConfigurationError with every fault; it shows no part of a key.
        """

    def find(self, secret: str) -> ApiKey | None:
        """Return the key with that secret, or None; every key is compared, in constant time."""

    def __len__(self) -> int: ...
