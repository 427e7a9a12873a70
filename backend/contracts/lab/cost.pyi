"""What a policy costs where nothing is wrong: the processor's time of a call, and a client's memory."""

from collections.abc import Callable
from dataclasses import dataclass

from holdfast.infrastructure.resilience.policy import Policy
from holdfast.lab.subjects import Subject

@dataclass(frozen=True, slots=True)
class Cost:
    """`cpu`: seconds of the processor that a policy adds to a call that succeeds; `size`: bytes that a client keeps."""

    cpu: float
    size: float

def cost(policy: str | Subject | Policy | Callable[[], Policy]) -> Cost:
    """Measure a policy on this machine, in a fraction of a second; unlike all else in the lab it differs each time.

    The processor's time is the least of five rounds, less that of a call without a policy. Errors as of `run`.
    """
