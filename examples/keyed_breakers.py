"""One breaker for each tenant: the outage of one is nobody else's."""

from holdfast import CircuitBreakers, CircuitOpenError, Window

breakers = CircuitBreakers("orders", key=str, window=Window.consecutive(3))


@breakers
def orders(tenant: str) -> int:
    """Count a tenant's orders; one tenant's database is down."""
    if tenant == "red":
        raise ConnectionRefusedError("no database")
    return 7


def main() -> None:
    """Ask for two tenants in turn."""
    refused = 0
    for tenant in ("red", "blue") * 5:
        try:
            orders(tenant)
        except CircuitOpenError:
            refused += 1
        except ConnectionError:
            pass
    states = {key: breakers.get(key).current_state for key in breakers}
    print(f"{states}, {refused} calls were not even tried")


if __name__ == "__main__":
    main()
