"""Retry budgets: a limit on the load that retries add, shared by everything that talks to one dependency."""

from holdfast.infrastructure.resilience.clock import Clock

class RetryBudget:
    """A token bucket for retries; share one object between the policies of one dependency. Thread-safe, O(1).

    Each first attempt deposits `ratio` tokens, which fade with the time constant `ttl` seconds: at a steady rate
    there are `ttl` seconds' worth of them. `min_per_second` retries a second are always granted, one second's worth
    at once (Finagle's RetryBudget). A retry withdraws one token when it is decided, before its backoff.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        ratio: float = 0.1,
        min_per_second: float = 10.0,
        ttl: float = 10.0,
        clock: Clock | None = None,
    ) -> None: ...
    @classmethod
    def aws(cls, name: str | None = None, *, tokens: float = 500.0) -> RetryBudget:
        """A quota of `tokens`: a retry costs 14, after throttling 5, refunded when it succeeds; a plain success adds 1.

        Source: the AWS SDKs' standard retry mode.
        """

    @classmethod
    def grpc(cls, name: str | None = None, *, tokens: float = 10.0, token_ratio: float = 0.1) -> RetryBudget:
        """`tokens` that lose 1 per failure and win `token_ratio` per success; retries only above half (gRFC A6)."""

    @property
    def name(self) -> str | None:
        """The name in events and errors."""

    @property
    def tokens(self) -> float:
        """Tokens that are there now."""

    @property
    def share(self) -> float:
        """Retries per first attempt that a lasting outage is granted, `min_per_second` aside."""

    @property
    def capacity(self) -> float | None:
        """The most tokens that it can hold (`aws`, `grpc`); None where first attempts decide that."""

    @property
    def counts_successes(self) -> bool:
        """Whether `deposit` counts successes, as for `aws` and `grpc`, and not first attempts."""

    def rewards(self, *, first: bool) -> bool:
        """Return whether a success is a deposit: at the first attempt, or at a retry."""

    def try_withdraw(self, *, throttled: bool = False) -> bool:
        """Take the price of one retry if it is there; return whether it was."""

    def withdraw(self, *, throttled: bool = False) -> None:
        """Take the price of one retry. RetryBudgetExhausted when it is not there."""

    def refund(self, *, throttled: bool = False) -> None:
        """Give back the price of a retry that succeeded or was never made, where the kind of budget refunds."""

    def deposit(self) -> None:
        """Count one first attempt (`aws`, `grpc`: one success)."""

    def record_failure(self) -> None:
        """Count one failed attempt; only `grpc` budgets mind."""

    def reset(self) -> None:
        """Forget everything, as if just made."""
