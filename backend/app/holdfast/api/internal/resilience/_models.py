"""What the API answers with."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from holdfast.api.internal.resilience._http import HoldfastProblem
from holdfast.api.internal.resilience._text import Fact, Facts, Text
from holdfast.infrastructure.resilience.states import CircuitState

Count = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0)]
Time = Annotated[float, Field(description="Unix time in seconds.")]


class Answer(BaseModel):
    """Base of every answer: facts that are not named here pass."""

    model_config = ConfigDict(extra="allow", from_attributes=True)
    __pydantic_extra__: dict[str, Fact]  # pyright: ignore[reportIncompatibleVariableOverride]


class Paged(BaseModel):
    """A part of a list; `total` is how long the whole list is now."""

    total: Count
    offset: Count
    limit: int = Field(ge=1, le=200)


class Health(BaseModel):
    """`degraded` while a breaker is open. Names and version are told to those who may read."""

    status: str = Field(pattern="^(ok|degraded)$")
    open: list[Text] = Field(max_length=200)
    open_count: Count
    version: Text | None


class BreakerCounts(BaseModel):
    """What a breaker's window holds, as the breaker counts: successes of a consecutive window are not kept."""

    calls: Count
    failures: Count
    slow: Count
    failure_rate: Rate
    slow_rate: Rate


class BreakerSummary(BaseModel):
    """A circuit breaker in short; `retry_after` is None unless it is open."""

    name: Text
    state: CircuitState
    operations: list[Text] = Field(max_length=200)
    seconds_in_state: Seconds
    retry_after: Seconds | None
    rejected: Count
    counts: BreakerCounts


class BreakerPage(Paged):
    """Circuit breakers by name."""

    items: list[BreakerSummary] = Field(max_length=200)


class BreakerSettings(BaseModel):
    """When a breaker opens, for how long, and how it probes."""

    failure_rate: Rate
    min_calls: Count
    window: Text
    slow_call_duration: Seconds | None
    slow_call_rate: Rate
    open_for: Seconds
    open_cap: Seconds
    open_jitter: Rate
    half_open_calls: Count
    half_open_timeout: Seconds


class StateSince(BaseModel):
    """A state, and since when."""

    at: Time
    state: Text


class BreakerDetail(BreakerSummary):
    """A circuit breaker with its settings and the states it was in during the last hour, oldest first."""

    config: BreakerSettings
    timeline: list[StateSince] = Field(max_length=200)


class Reason(BaseModel):
    """Why somebody does it, for the audit trail."""

    model_config = ConfigDict(extra="forbid")

    reason: str | None = Field(None, max_length=200)


class CurrentConfiguration(Answer):
    """The configuration now; `version` counts its changes."""

    version: Count
    preset: Text
    strategy: Text
    enabled: bool
    overrides: dict[str, Text]


class StrategyNumbers(Answer):
    """What a strategy gives an operation. Times in seconds."""

    name: Text
    attempts: Count
    deadline: Seconds
    multiplier: Seconds
    minimum: Seconds
    maximum: Seconds
    jitter: Seconds
    threshold: Count
    recovery: Seconds


class PresetSummary(Answer):
    """A configuration with a name."""

    name: Text
    description: Text
    attempts: Count
    threshold: Count
    recovery: Seconds
    strategy: Text
    overrides: dict[str, Text]


class PresetDetail(PresetSummary):
    """A preset, and the numbers of the strategies that it uses."""

    strategies: list[StrategyNumbers] = Field(max_length=200)


class PresetPage(Paged):
    """Presets by name."""

    items: list[PresetSummary] = Field(max_length=200)


class TemplateSummary(Answer):
    """A starting point for a custom configuration."""

    name: Text
    description: Text
    settings: Facts


class TemplatePage(Paged):
    """Templates by name."""

    items: list[TemplateSummary] = Field(max_length=200)


class Recommended(Answer):
    """Which preset suits an environment."""

    environment: Text
    preset: Text
    confidence: Rate
    reason: Text


class OperationNumbers(Answer):
    """What an operation gets, and where each number comes from."""

    operation: Text
    strategy: Text
    attempts: Count
    deadline: Seconds
    multiplier: Seconds
    minimum: Seconds
    maximum: Seconds
    jitter: Seconds
    threshold: Count
    recovery: Seconds
    half_open_calls: Count
    sources: dict[str, Text]


class OperationPage(Paged):
    """Registered operations by name."""

    items: list[OperationNumbers] = Field(max_length=200)


class Checked(Answer):
    """What is wrong with a custom configuration, and which template comes near."""

    valid: bool
    faults: list[Facts] = Field(max_length=200)
    warnings: list[Facts] = Field(max_length=200)
    template: Text | None


class Apply(BaseModel):
    """A preset to change to, a custom configuration, or both."""

    model_config = ConfigDict(extra="forbid")

    settings: Facts | None = None
    preset: str | None = Field(None, max_length=200)
    reason: str | None = Field(None, max_length=200)


class Changed(Answer):
    """One line of the audit trail."""

    number: Count
    at: Time
    actor: Text
    action: Text
    reason: Text | None
    error: Text | None


class Audit(BaseModel):
    """Changes, newest first; `next` is the `before` of the page that follows, None on the last."""

    items: list[Changed] = Field(max_length=200)
    next: int | None


class OperationUsage(Answer):
    """What an operation did. Rates are shares of its calls; latencies in seconds, None where unknown.

    Degraded calls are successes that a fallback answered.
    """

    operation: Text
    seconds: Seconds
    calls: Count
    successes: Count
    failures: Count
    rejections: Count
    cancelled: Count
    degraded: Count
    calls_per_second: Seconds
    success_rate: Rate | None
    failure_rate: Rate | None
    rejection_rate: Rate | None
    degraded_rate: Rate | None
    retry_rate: Rate | None
    retries: dict[str, Count]
    p50: Seconds | None
    p95: Seconds | None
    p99: Seconds | None


class UsagePage(Paged):
    """What operations did in the last `seconds`, by name."""

    seconds: Seconds
    items: list[OperationUsage] = Field(max_length=200)


class TrendPoint(Answer):
    """Figures of one stretch of time."""

    at: Time


class Trends(BaseModel):
    """Figures over time, oldest first; `operation` is None for all together."""

    operation: Text | None
    seconds: Seconds
    points: list[TrendPoint] = Field(max_length=500)


class OperationLatency(BaseModel):
    """How fast an operation is: calls a second, latencies in seconds."""

    operation: Text
    calls: Count
    calls_per_second: Seconds
    p50: Seconds | None
    p95: Seconds | None
    p99: Seconds | None


class LatencyPage(Paged):
    """How fast operations were in the last `seconds`, slowest (by p95) first."""

    seconds: Seconds
    items: list[OperationLatency] = Field(max_length=200)


class AlertFacts(Answer):
    """A threshold that is passed, or was."""

    number: Count
    threshold: Text
    severity: Text
    subject: Text
    measured: float
    limit: float
    since: Time
    until: float | None
    message: Text


class Alerts(BaseModel):
    """Alerts, newest first."""

    items: list[AlertFacts] = Field(max_length=200)


class ThresholdFacts(Answer):
    """When an alert fires."""

    name: Text
    measure: Text
    value: float
    below: bool
    over: Seconds
    lasting: Seconds
    severity: Text
    min_calls: Count


class Thresholds(BaseModel):
    """Every threshold of the monitor."""

    items: list[ThresholdFacts] = Field(max_length=200)


class PolicyFacts(Answer):
    """One stateful policy, the operations that use it, and its facts, which depend on its kind."""

    name: Text
    kind: Text
    operations: list[Text] = Field(max_length=200)
    facts: Facts


class PolicyPage(Paged):
    """Stateful policies by kind and name."""

    items: list[PolicyFacts] = Field(max_length=200)


class PipelineFacts(Answer):
    """What a named pipeline guarantees; None stands for no bound."""

    name: Text


class PipelinePage(Paged):
    """Explanations of named pipelines, by name."""

    items: list[PipelineFacts] = Field(max_length=200)


class RunRequest(BaseModel):
    """Whose pipeline to measure; without a name, a retry within a timeout, with a circuit breaker."""

    model_config = ConfigDict(extra="forbid")

    operation: str | None = Field(None, min_length=1, max_length=1000)


class RunStarted(BaseModel):
    """The number of a run that has begun."""

    id: int = Field(ge=1)


class Measured(BaseModel):
    """What a call costs, in nanoseconds: bare, through the pipeline, the difference, and the quotient."""

    mode: str = Field(pattern="^(sync|async)$")
    bare_ns: Seconds
    call_ns: Seconds
    added_ns: float
    ratio: float = Field(ge=0)


class Run(BaseModel):
    """A run of the benchmark. `skipped`: policies whose kind it does not measure; `exceeded`: thresholds it passed."""

    id: int = Field(ge=1)
    operation: Text | None
    status: str = Field(pattern="^(running|done|failed)$")
    started: Time
    ended: float | None
    policies: list[Text] = Field(max_length=200)
    skipped: list[Text] = Field(max_length=200)
    results: list[Measured] = Field(max_length=2)
    exceeded: list[Text] = Field(max_length=10)
    failure: HoldfastProblem | None


class RunPage(Paged):
    """Runs, newest first."""

    items: list[Run] = Field(max_length=200)


class BenchmarkThreshold(BaseModel):
    """What one policy in the pipeline may add to a call at most, in nanoseconds."""

    name: Text
    value: float
    description: Text


class BenchmarkThresholds(BaseModel):
    """What a run is judged by."""

    items: list[BenchmarkThreshold] = Field(max_length=10)


class Report(BaseModel):
    """The newest finished run of each operation; `passed` is None before the first."""

    runs: Count
    running: int | None
    passed: bool | None
    latest: list[Run] = Field(max_length=200)
    thresholds: list[BenchmarkThreshold] = Field(max_length=10)


class ConfigurationInShort(BaseModel):
    """The configuration in three words."""

    version: Count
    preset: Text
    strategy: Text
    enabled: bool


class Snapshot(BaseModel):
    """What a page needs to begin with; events after `last_event` go on from here."""

    at: Time
    breakers: list[BreakerSummary] = Field(max_length=200)
    usage: list[OperationUsage] = Field(max_length=200)
    policies: list[PolicyFacts] = Field(max_length=200)
    alerts: list[AlertFacts] = Field(max_length=200)
    configuration: ConfigurationInShort
    last_event: Count
    feed: Annotated[
        float, Field(description="When the feed began; event numbers of another are not its own.")
    ]
    role: str = Field(pattern="^(read|operate)$", description="What this client may do.")
    jobs: Text | None = Field(description="Where the API of jobs is, seen from the dashboard; None: nowhere.")
