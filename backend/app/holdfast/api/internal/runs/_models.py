"""What the API of runs answers."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from holdfast.infrastructure.store.state import JobState, StepState


class _Shown(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class Submitted(_Shown):
    """A run that was stored: where its summary will be, and what people see of it."""

    run_id: str
    trace_id: str
    flow_id: str
    done_endpoint: str
    search_tag: str
    comment: str
    created: bool = Field(description="False: it was known.")


class RunListed(_Shown):
    """A run in a list."""

    run_id: str
    flow_id: str
    state: JobState
    done: int
    total: int
    created_at: float | None


class OrderShown(_Shown):
    """How an order is; `reserved`: it waits for its target."""

    name: str
    number: int
    state: StepState
    reserved: bool
    depends_on: list[str]
    must_succeed: bool
    target: str
    error: str
    started_at: float | None
    finished_at: float | None


class RunShown(_Shown):
    """A run and its orders; `finished`: nothing changes any more."""

    run_id: str
    flow_id: str
    status: JobState
    finished: bool
    retry_of: str | None
    orders: list[OrderShown]
