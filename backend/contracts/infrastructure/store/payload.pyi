"""Payloads and results as JSON bytes that come back exactly: `Decimal`, dates, bytes and UUIDs too."""

from typing import Any

from holdfast.infrastructure.resilience.errors import HoldfastError

class PayloadError(HoldfastError, ValueError):
    """A value cannot be stored so that it comes back equal, or stored bytes cannot be read."""

    def __init__(self, path: str, problem: str, remedy: str) -> None: ...
    @property
    def path(self) -> str:
        """Where it stands, for example `payload.lines[2].price`."""
    @property
    def problem(self) -> str:
        """What is wrong."""
    @property
    def remedy(self) -> str:
        """What to do."""

def encode(value: Any, *, name: str = "payload") -> bytes:
    """Return `value` as compact JSON in UTF-8, from which `decode` makes an equal value of the same types.

    Takes None, bool, int, float, str, list, tuple, dict with keys of text, Decimal, date, datetime (naive, with an
    offset or a ZoneInfo), time, timedelta, bytes and UUID; no subclasses. All else raises PayloadError, whose path
    begins with `name`.
    """

def decode(data: bytes | str) -> Any:
    """Return the value that `encode` was given. Raises PayloadError if `data` is not its work."""

def digest(value: Any, *, name: str = "payload") -> str:
    """Return the SHA-256 of the canonical form, in hex: the same for equal dicts in whatever order of keys.

    1, 1.0 and Decimal("1"), and Decimal("1.0") and Decimal("1.00"), differ. Raises PayloadError as `encode` does.
    """
