"""What a job would cost, from quotes for its first rows."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """What one row would cost, or why nobody could say."""

    key: str
    line: int
    amount: Decimal | None = None
    error: str = ""

@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """Quotes for the first rows of a job, and what they say of all `total` rows; approval needs the `digest`.

    `estimate` is the sum of the quotes that succeeded plus their mean for every other row, to their finest decimal;
    `low` and `high` take their least and greatest for the others. None when there is no quote for a job with rows.
    """

    job: str
    digest: str
    total: int
    quotes: tuple[Quote, ...] = ()
    estimate: Decimal | None = None
    low: Decimal | None = None
    high: Decimal | None = None

    @property
    def quoted(self) -> Decimal:
        """The sum of the quotes that succeeded."""
    @property
    def failed(self) -> tuple[str, ...]:
        """The names of the rows whose quote failed."""
    @property
    def exact(self) -> bool:
        """Whether every row was quoted, so that nothing is extrapolated."""
    def as_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON: amounts as text."""
    @classmethod
    def from_dict(cls, job: str, digest: str, stored: Mapping[str, Any]) -> Preview:
        """Return the preview that a job keeps."""

def extrapolate(job: str, digest: str, total: int, quotes: Iterable[Quote]) -> Preview:
    """Return the preview that quotes for the first of `total` rows make."""
