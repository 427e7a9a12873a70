"""Three decorators on a flaky function, and what they did."""

import itertools

from holdfast import RetryScheduled, breaker_of, circuit_breaker, explain, retry, subscribe, timeout

_calls = itertools.count(1)


@timeout(10)
@retry(attempts=5)
@circuit_breaker(name="price service")
@timeout(2)
def price(article: str) -> float:
    """Ask for a price; every second request fails."""
    if next(_calls) % 2:
        raise ConnectionResetError(f"the peer went away before it had a price for {article}")
    return 9.99


def main() -> None:
    """Ask for a few prices and tell what it took."""
    retries: list[RetryScheduled] = []
    with subscribe(retries.append, RetryScheduled):
        prices = [price(article) for article in ("kelp", "wrack", "dulse")]
    print(f"prices: {prices}, after {len(retries)} retries")
    print(f"breaker: {breaker_of(price).current_state}, {breaker_of(price).counts}")
    print(explain(price))


if __name__ == "__main__":
    main()
