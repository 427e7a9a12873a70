"""Events as records of standard logging, with their fields as extras."""

import logging

from holdfast.infrastructure.resilience.events import Event, Subscription

def log_events(
    logger: logging.Logger | str = "holdfast.events", *kinds: type[Event], names: frozenset[str] | None = None
) -> Subscription:
    """Log every event (or those of `kinds`, of policies called `names`); close the subscription to end that.

    Refusals and failures are warnings, an opened circuit is an error, the rest is information. Fields become extras
    `holdfast_<field>`, the class's name `holdfast_event`; the message is a sentence. What logging itself makes happen
    is not logged. ConfigurationError for what is no logger, no kind of event and no set of names.
    """
