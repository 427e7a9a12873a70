"""What a job would cost, from quotes for its first rows."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_ZERO = Decimal(0)


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
        return sum(_amounts(self.quotes), _ZERO)

    @property
    def failed(self) -> tuple[str, ...]:
        """The names of the rows whose quote failed."""
        return tuple(quote.key for quote in self.quotes if quote.error)

    @property
    def exact(self) -> bool:
        """Whether every row was quoted, so that nothing is extrapolated."""
        return len(_amounts(self.quotes)) == self.total

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON: amounts as text."""
        return {
            "total": self.total,
            "quotes": [
                {"key": one.key, "line": one.line, "amount": _text(one.amount), "error": one.error}
                for one in self.quotes
            ],
            "estimate": _text(self.estimate),
            "low": _text(self.low),
            "high": _text(self.high),
            "quoted": str(self.quoted),
            "failed": list(self.failed),
            "exact": self.exact,
        }

    @classmethod
    def from_dict(cls, job: str, digest: str, stored: Mapping[str, Any]) -> Preview:
        """Return the preview that a job keeps."""
        quotes = tuple(
            Quote(key=one["key"], line=one["line"], amount=_number(one["amount"]), error=one["error"])
            for one in stored["quotes"]
        )
        figures = {name: _number(stored[name]) for name in ("estimate", "low", "high")}
        return cls(job=job, digest=digest, total=stored["total"], quotes=quotes, **figures)


def extrapolate(job: str, digest: str, total: int, quotes: Iterable[Quote]) -> Preview:
    """Return the preview that quotes for the first of `total` rows make."""
    taken = tuple(quotes)
    amounts = _amounts(taken)
    if not amounts:
        known = None if total else _ZERO
        return Preview(
            job=job, digest=digest, total=total, quotes=taken, estimate=known, low=known, high=known
        )
    others = total - len(amounts)
    quoted = sum(amounts, _ZERO)
    return Preview(
        job=job,
        digest=digest,
        total=total,
        quotes=taken,
        estimate=quoted + _rounded(quoted * others / len(amounts), amounts),
        low=quoted + min(amounts) * others,
        high=quoted + max(amounts) * others,
    )


def _amounts(quotes: Iterable[Quote]) -> list[Decimal]:
    return [quote.amount for quote in quotes if quote.amount is not None]


def _rounded(value: Decimal, like: Iterable[Decimal]) -> Decimal:
    finest = min(int(one.as_tuple().exponent) for one in like)
    return value.quantize(Decimal(1).scaleb(min(finest, 0)))


def _text(amount: Decimal | None) -> str | None:
    return None if amount is None else str(amount)


def _number(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)
