"""Resilience for Python services: calls that hold when a dependency fails."""

from __future__ import annotations

import importlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from holdfast.infrastructure.resilience.backoff import Backoff as Backoff
    from holdfast.infrastructure.resilience.backoff import backoff as backoff
    from holdfast.infrastructure.resilience.budget import RetryBudget as RetryBudget
    from holdfast.infrastructure.resilience.bulkhead import Bulkhead as Bulkhead
    from holdfast.infrastructure.resilience.bulkhead import BulkheadConfig as BulkheadConfig
    from holdfast.infrastructure.resilience.bulkhead import bulkhead as bulkhead
    from holdfast.infrastructure.resilience.cache import Cache as Cache
    from holdfast.infrastructure.resilience.cache import CacheConfig as CacheConfig
    from holdfast.infrastructure.resilience.cache import CacheInfo as CacheInfo
    from holdfast.infrastructure.resilience.cache import cache as cache
    from holdfast.infrastructure.resilience.chaos import Chaos as Chaos
    from holdfast.infrastructure.resilience.chaos import ChaosConfig as ChaosConfig
    from holdfast.infrastructure.resilience.chaos import chaos as chaos
    from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker as CircuitBreaker
    from holdfast.infrastructure.resilience.circuit_breaker import (
        CircuitBreakerConfig as CircuitBreakerConfig,
    )
    from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreakers as CircuitBreakers
    from holdfast.infrastructure.resilience.circuit_breaker import breaker_of as breaker_of
    from holdfast.infrastructure.resilience.circuit_breaker import circuit_breaker as circuit_breaker
    from holdfast.infrastructure.resilience.circuit_breaker import live_breakers as live_breakers
    from holdfast.infrastructure.resilience.classify import PERMANENT as PERMANENT
    from holdfast.infrastructure.resilience.classify import THROTTLED as THROTTLED
    from holdfast.infrastructure.resilience.classify import TRANSIENT as TRANSIENT
    from holdfast.infrastructure.resilience.classify import Classifier as Classifier
    from holdfast.infrastructure.resilience.classify import Verdict as Verdict
    from holdfast.infrastructure.resilience.classify import classify as classify
    from holdfast.infrastructure.resilience.classify import register_classifier as register_classifier
    from holdfast.infrastructure.resilience.classify import retry_after as retry_after
    from holdfast.infrastructure.resilience.clock import Clock as Clock
    from holdfast.infrastructure.resilience.clock import current_clock as current_clock
    from holdfast.infrastructure.resilience.clock import use_clock as use_clock
    from holdfast.infrastructure.resilience.concurrency_limit import AIMD as AIMD
    from holdfast.infrastructure.resilience.concurrency_limit import ConcurrencyLimit as ConcurrencyLimit
    from holdfast.infrastructure.resilience.concurrency_limit import (
        ConcurrencyLimitConfig as ConcurrencyLimitConfig,
    )
    from holdfast.infrastructure.resilience.concurrency_limit import Gradient2 as Gradient2
    from holdfast.infrastructure.resilience.concurrency_limit import StandingQueue as StandingQueue
    from holdfast.infrastructure.resilience.concurrency_limit import concurrency_limit as concurrency_limit
    from holdfast.infrastructure.resilience.deadline import current_deadline as current_deadline
    from holdfast.infrastructure.resilience.deadline import deadline_after as deadline_after
    from holdfast.infrastructure.resilience.deadline import remaining as remaining
    from holdfast.infrastructure.resilience.errors import BulkheadFullError as BulkheadFullError
    from holdfast.infrastructure.resilience.errors import CallRejectedError as CallRejectedError
    from holdfast.infrastructure.resilience.errors import ChannelError as ChannelError
    from holdfast.infrastructure.resilience.errors import CircuitOpenError as CircuitOpenError
    from holdfast.infrastructure.resilience.errors import CommandFailed as CommandFailed
    from holdfast.infrastructure.resilience.errors import ConcurrencyLimitedError as ConcurrencyLimitedError
    from holdfast.infrastructure.resilience.errors import ConfigurationError as ConfigurationError
    from holdfast.infrastructure.resilience.errors import Fault as Fault
    from holdfast.infrastructure.resilience.errors import HoldfastError as HoldfastError
    from holdfast.infrastructure.resilience.errors import HttpFailed as HttpFailed
    from holdfast.infrastructure.resilience.errors import PeerBusy as PeerBusy
    from holdfast.infrastructure.resilience.errors import PeerDisconnected as PeerDisconnected
    from holdfast.infrastructure.resilience.errors import PeerNotConnected as PeerNotConnected
    from holdfast.infrastructure.resilience.errors import PeerRefused as PeerRefused
    from holdfast.infrastructure.resilience.errors import RateLimitedError as RateLimitedError
    from holdfast.infrastructure.resilience.errors import ReplyTimeout as ReplyTimeout
    from holdfast.infrastructure.resilience.errors import RetryBudgetExhausted as RetryBudgetExhausted
    from holdfast.infrastructure.resilience.errors import ThrottledError as ThrottledError
    from holdfast.infrastructure.resilience.errors import TimeoutExceeded as TimeoutExceeded
    from holdfast.infrastructure.resilience.events import BudgetExhausted as BudgetExhausted
    from holdfast.infrastructure.resilience.events import CacheRefreshFailed as CacheRefreshFailed
    from holdfast.infrastructure.resilience.events import CacheServed as CacheServed
    from holdfast.infrastructure.resilience.events import CallbackFailed as CallbackFailed
    from holdfast.infrastructure.resilience.events import CallDelayed as CallDelayed
    from holdfast.infrastructure.resilience.events import CallRejected as CallRejected
    from holdfast.infrastructure.resilience.events import CallTimedOut as CallTimedOut
    from holdfast.infrastructure.resilience.events import ChaosInjected as ChaosInjected
    from holdfast.infrastructure.resilience.events import CircuitClosed as CircuitClosed
    from holdfast.infrastructure.resilience.events import CircuitHalfOpened as CircuitHalfOpened
    from holdfast.infrastructure.resilience.events import CircuitOpened as CircuitOpened
    from holdfast.infrastructure.resilience.events import CircuitOverridden as CircuitOverridden
    from holdfast.infrastructure.resilience.events import Event as Event
    from holdfast.infrastructure.resilience.events import FallbackUsed as FallbackUsed
    from holdfast.infrastructure.resilience.events import FrameIgnored as FrameIgnored
    from holdfast.infrastructure.resilience.events import HedgeStarted as HedgeStarted
    from holdfast.infrastructure.resilience.events import HedgeWon as HedgeWon
    from holdfast.infrastructure.resilience.events import LimitChanged as LimitChanged
    from holdfast.infrastructure.resilience.events import PeerJoined as PeerJoined
    from holdfast.infrastructure.resilience.events import PeerLeft as PeerLeft
    from holdfast.infrastructure.resilience.events import ProbeExpired as ProbeExpired
    from holdfast.infrastructure.resilience.events import RetriesNested as RetriesNested
    from holdfast.infrastructure.resilience.events import RetryGaveUp as RetryGaveUp
    from holdfast.infrastructure.resilience.events import RetryScheduled as RetryScheduled
    from holdfast.infrastructure.resilience.events import RetrySucceeded as RetrySucceeded
    from holdfast.infrastructure.resilience.events import StorageFailed as StorageFailed
    from holdfast.infrastructure.resilience.events import Subscription as Subscription
    from holdfast.infrastructure.resilience.events import WorkerAbandoned as WorkerAbandoned
    from holdfast.infrastructure.resilience.events import subscribe as subscribe
    from holdfast.infrastructure.resilience.fallback import Fallback as Fallback
    from holdfast.infrastructure.resilience.fallback import FallbackConfig as FallbackConfig
    from holdfast.infrastructure.resilience.fallback import fallback as fallback
    from holdfast.infrastructure.resilience.fallback import watch_degraded as watch_degraded
    from holdfast.infrastructure.resilience.hedge import Hedge as Hedge
    from holdfast.infrastructure.resilience.hedge import HedgeConfig as HedgeConfig
    from holdfast.infrastructure.resilience.hedge import Quantile as Quantile
    from holdfast.infrastructure.resilience.hedge import hedge as hedge
    from holdfast.infrastructure.resilience.hedge import hedge_errors as hedge_errors
    from holdfast.infrastructure.resilience.live import live as live
    from holdfast.infrastructure.resilience.meter import Meter as Meter
    from holdfast.infrastructure.resilience.meter import metered as metered
    from holdfast.infrastructure.resilience.meter import meters as meters
    from holdfast.infrastructure.resilience.operations import (
        with_aggressive_resilience as with_aggressive_resilience,
    )
    from holdfast.infrastructure.resilience.operations import (
        with_balanced_resilience as with_balanced_resilience,
    )
    from holdfast.infrastructure.resilience.operations import (
        with_conservative_resilience as with_conservative_resilience,
    )
    from holdfast.infrastructure.resilience.operations import (
        with_critical_resilience as with_critical_resilience,
    )
    from holdfast.infrastructure.resilience.operations import (
        with_operation_resilience as with_operation_resilience,
    )
    from holdfast.infrastructure.resilience.permit import Permit as Permit
    from holdfast.infrastructure.resilience.pipeline import Explanation as Explanation
    from holdfast.infrastructure.resilience.pipeline import Pipeline as Pipeline
    from holdfast.infrastructure.resilience.pipeline import explain as explain
    from holdfast.infrastructure.resilience.policy import Policy as Policy
    from holdfast.infrastructure.resilience.randomness import current_random as current_random
    from holdfast.infrastructure.resilience.randomness import use_random as use_random
    from holdfast.infrastructure.resilience.rate_limit import RateLimit as RateLimit
    from holdfast.infrastructure.resilience.rate_limit import RateLimitConfig as RateLimitConfig
    from holdfast.infrastructure.resilience.rate_limit import RateLimits as RateLimits
    from holdfast.infrastructure.resilience.rate_limit import rate_limit as rate_limit
    from holdfast.infrastructure.resilience.registry import Registry as Registry
    from holdfast.infrastructure.resilience.registry import Resilient as Resilient
    from holdfast.infrastructure.resilience.registry import recommended as recommended
    from holdfast.infrastructure.resilience.registry import registry as registry
    from holdfast.infrastructure.resilience.registry import resilient as resilient
    from holdfast.infrastructure.resilience.retry import Attempt as Attempt
    from holdfast.infrastructure.resilience.retry import Retry as Retry
    from holdfast.infrastructure.resilience.retry import RetryConfig as RetryConfig
    from holdfast.infrastructure.resilience.retry import current_attempt as current_attempt
    from holdfast.infrastructure.resilience.retry import retry as retry
    from holdfast.infrastructure.resilience.states import CircuitState as CircuitState
    from holdfast.infrastructure.resilience.throttle import Throttle as Throttle
    from holdfast.infrastructure.resilience.throttle import ThrottleConfig as ThrottleConfig
    from holdfast.infrastructure.resilience.throttle import throttle as throttle
    from holdfast.infrastructure.resilience.timeout import Timeout as Timeout
    from holdfast.infrastructure.resilience.timeout import TimeoutConfig as TimeoutConfig
    from holdfast.infrastructure.resilience.timeout import abandoned_workers as abandoned_workers
    from holdfast.infrastructure.resilience.timeout import timeout as timeout
    from holdfast.infrastructure.resilience.window import Window as Window
    from holdfast.infrastructure.resilience.window import WindowCounts as WindowCounts
    from holdfast.infrastructure.store.redis_breaker import RedisBreakerStorage as RedisBreakerStorage
    from holdfast.infrastructure.store.redis_rate_limit import RedisRateLimit as RedisRateLimit
    from holdfast.infrastructure.store.redis_rate_limit import RedisRateLimitConfig as RedisRateLimitConfig
    from holdfast.infrastructure.store.redis_rate_limit import redis_rate_limit as redis_rate_limit
    from holdfast.infrastructure.transport.channel import ChannelPeer as ChannelPeer
    from holdfast.infrastructure.transport.channel import ChannelPeerConfig as ChannelPeerConfig
    from holdfast.infrastructure.transport.channel import ChannelServer as ChannelServer
    from holdfast.infrastructure.transport.channel import ChannelServerConfig as ChannelServerConfig
    from holdfast.infrastructure.transport.channel import current_request_id as current_request_id
    from holdfast.infrastructure.transport.http import AsyncHttpxTransport as AsyncHttpxTransport
    from holdfast.infrastructure.transport.http import HttpxTransport as HttpxTransport
    from holdfast.infrastructure.transport.http import async_httpx_transport as async_httpx_transport
    from holdfast.infrastructure.transport.http import httpx_transport as httpx_transport
    from holdfast.infrastructure.transport.http_handler import AsyncHttpHandler as AsyncHttpHandler
    from holdfast.infrastructure.transport.http_handler import HttpHandler as HttpHandler
    from holdfast.infrastructure.transport.propagation import PropagationMiddleware as PropagationMiddleware
    from holdfast.infrastructure.transport.propagation import caller_attempt as caller_attempt
    from holdfast.infrastructure.transport.propagation import outgoing_headers as outgoing_headers

# Names load when they are first asked for, so that importing the package costs next to nothing.
_EXPORTS = {
    "AIMD": "holdfast.infrastructure.resilience.concurrency_limit",
    "AsyncHttpHandler": "holdfast.infrastructure.transport.http_handler",
    "AsyncHttpxTransport": "holdfast.infrastructure.transport.http",
    "Attempt": "holdfast.infrastructure.resilience.retry",
    "Backoff": "holdfast.infrastructure.resilience.backoff",
    "BudgetExhausted": "holdfast.infrastructure.resilience.events",
    "Bulkhead": "holdfast.infrastructure.resilience.bulkhead",
    "BulkheadConfig": "holdfast.infrastructure.resilience.bulkhead",
    "BulkheadFullError": "holdfast.infrastructure.resilience.errors",
    "Cache": "holdfast.infrastructure.resilience.cache",
    "CacheConfig": "holdfast.infrastructure.resilience.cache",
    "CacheInfo": "holdfast.infrastructure.resilience.cache",
    "CacheRefreshFailed": "holdfast.infrastructure.resilience.events",
    "CacheServed": "holdfast.infrastructure.resilience.events",
    "CallDelayed": "holdfast.infrastructure.resilience.events",
    "CallRejected": "holdfast.infrastructure.resilience.events",
    "CallRejectedError": "holdfast.infrastructure.resilience.errors",
    "CallTimedOut": "holdfast.infrastructure.resilience.events",
    "CallbackFailed": "holdfast.infrastructure.resilience.events",
    "ChannelError": "holdfast.infrastructure.resilience.errors",
    "ChannelPeer": "holdfast.infrastructure.transport.channel",
    "ChannelPeerConfig": "holdfast.infrastructure.transport.channel",
    "ChannelServer": "holdfast.infrastructure.transport.channel",
    "ChannelServerConfig": "holdfast.infrastructure.transport.channel",
    "Chaos": "holdfast.infrastructure.resilience.chaos",
    "ChaosConfig": "holdfast.infrastructure.resilience.chaos",
    "ChaosInjected": "holdfast.infrastructure.resilience.events",
    "CircuitBreaker": "holdfast.infrastructure.resilience.circuit_breaker",
    "CircuitBreakerConfig": "holdfast.infrastructure.resilience.circuit_breaker",
    "CircuitBreakers": "holdfast.infrastructure.resilience.circuit_breaker",
    "CircuitClosed": "holdfast.infrastructure.resilience.events",
    "CircuitHalfOpened": "holdfast.infrastructure.resilience.events",
    "CircuitOpenError": "holdfast.infrastructure.resilience.errors",
    "CircuitOpened": "holdfast.infrastructure.resilience.events",
    "CircuitOverridden": "holdfast.infrastructure.resilience.events",
    "CircuitState": "holdfast.infrastructure.resilience.states",
    "Classifier": "holdfast.infrastructure.resilience.classify",
    "Clock": "holdfast.infrastructure.resilience.clock",
    "CommandFailed": "holdfast.infrastructure.resilience.errors",
    "ConcurrencyLimit": "holdfast.infrastructure.resilience.concurrency_limit",
    "ConcurrencyLimitConfig": "holdfast.infrastructure.resilience.concurrency_limit",
    "ConcurrencyLimitedError": "holdfast.infrastructure.resilience.errors",
    "ConfigurationError": "holdfast.infrastructure.resilience.errors",
    "Event": "holdfast.infrastructure.resilience.events",
    "Explanation": "holdfast.infrastructure.resilience.pipeline",
    "Fallback": "holdfast.infrastructure.resilience.fallback",
    "FallbackConfig": "holdfast.infrastructure.resilience.fallback",
    "FallbackUsed": "holdfast.infrastructure.resilience.events",
    "Fault": "holdfast.infrastructure.resilience.errors",
    "FrameIgnored": "holdfast.infrastructure.resilience.events",
    "Gradient2": "holdfast.infrastructure.resilience.concurrency_limit",
    "Hedge": "holdfast.infrastructure.resilience.hedge",
    "HedgeConfig": "holdfast.infrastructure.resilience.hedge",
    "HedgeStarted": "holdfast.infrastructure.resilience.events",
    "HedgeWon": "holdfast.infrastructure.resilience.events",
    "HoldfastError": "holdfast.infrastructure.resilience.errors",
    "HttpFailed": "holdfast.infrastructure.resilience.errors",
    "HttpHandler": "holdfast.infrastructure.transport.http_handler",
    "HttpxTransport": "holdfast.infrastructure.transport.http",
    "LimitChanged": "holdfast.infrastructure.resilience.events",
    "Meter": "holdfast.infrastructure.resilience.meter",
    "PERMANENT": "holdfast.infrastructure.resilience.classify",
    "PeerBusy": "holdfast.infrastructure.resilience.errors",
    "PeerDisconnected": "holdfast.infrastructure.resilience.errors",
    "PeerJoined": "holdfast.infrastructure.resilience.events",
    "PeerLeft": "holdfast.infrastructure.resilience.events",
    "PeerNotConnected": "holdfast.infrastructure.resilience.errors",
    "PeerRefused": "holdfast.infrastructure.resilience.errors",
    "Permit": "holdfast.infrastructure.resilience.permit",
    "Pipeline": "holdfast.infrastructure.resilience.pipeline",
    "Policy": "holdfast.infrastructure.resilience.policy",
    "ProbeExpired": "holdfast.infrastructure.resilience.events",
    "PropagationMiddleware": "holdfast.infrastructure.transport.propagation",
    "Quantile": "holdfast.infrastructure.resilience.hedge",
    "RateLimit": "holdfast.infrastructure.resilience.rate_limit",
    "RateLimitConfig": "holdfast.infrastructure.resilience.rate_limit",
    "RateLimitedError": "holdfast.infrastructure.resilience.errors",
    "RateLimits": "holdfast.infrastructure.resilience.rate_limit",
    "RedisBreakerStorage": "holdfast.infrastructure.store.redis_breaker",
    "RedisRateLimit": "holdfast.infrastructure.store.redis_rate_limit",
    "RedisRateLimitConfig": "holdfast.infrastructure.store.redis_rate_limit",
    "Registry": "holdfast.infrastructure.resilience.registry",
    "ReplyTimeout": "holdfast.infrastructure.resilience.errors",
    "Resilient": "holdfast.infrastructure.resilience.registry",
    "RetriesNested": "holdfast.infrastructure.resilience.events",
    "Retry": "holdfast.infrastructure.resilience.retry",
    "RetryBudget": "holdfast.infrastructure.resilience.budget",
    "RetryBudgetExhausted": "holdfast.infrastructure.resilience.errors",
    "RetryConfig": "holdfast.infrastructure.resilience.retry",
    "RetryGaveUp": "holdfast.infrastructure.resilience.events",
    "RetryScheduled": "holdfast.infrastructure.resilience.events",
    "RetrySucceeded": "holdfast.infrastructure.resilience.events",
    "StandingQueue": "holdfast.infrastructure.resilience.concurrency_limit",
    "StorageFailed": "holdfast.infrastructure.resilience.events",
    "Subscription": "holdfast.infrastructure.resilience.events",
    "THROTTLED": "holdfast.infrastructure.resilience.classify",
    "TRANSIENT": "holdfast.infrastructure.resilience.classify",
    "Throttle": "holdfast.infrastructure.resilience.throttle",
    "ThrottleConfig": "holdfast.infrastructure.resilience.throttle",
    "ThrottledError": "holdfast.infrastructure.resilience.errors",
    "Timeout": "holdfast.infrastructure.resilience.timeout",
    "TimeoutConfig": "holdfast.infrastructure.resilience.timeout",
    "TimeoutExceeded": "holdfast.infrastructure.resilience.errors",
    "Verdict": "holdfast.infrastructure.resilience.classify",
    "Window": "holdfast.infrastructure.resilience.window",
    "WindowCounts": "holdfast.infrastructure.resilience.window",
    "WorkerAbandoned": "holdfast.infrastructure.resilience.events",
    "abandoned_workers": "holdfast.infrastructure.resilience.timeout",
    "async_httpx_transport": "holdfast.infrastructure.transport.http",
    "backoff": "holdfast.infrastructure.resilience.backoff",
    "breaker_of": "holdfast.infrastructure.resilience.circuit_breaker",
    "bulkhead": "holdfast.infrastructure.resilience.bulkhead",
    "cache": "holdfast.infrastructure.resilience.cache",
    "caller_attempt": "holdfast.infrastructure.transport.propagation",
    "chaos": "holdfast.infrastructure.resilience.chaos",
    "circuit_breaker": "holdfast.infrastructure.resilience.circuit_breaker",
    "classify": "holdfast.infrastructure.resilience.classify",
    "concurrency_limit": "holdfast.infrastructure.resilience.concurrency_limit",
    "current_attempt": "holdfast.infrastructure.resilience.retry",
    "current_clock": "holdfast.infrastructure.resilience.clock",
    "current_deadline": "holdfast.infrastructure.resilience.deadline",
    "current_random": "holdfast.infrastructure.resilience.randomness",
    "current_request_id": "holdfast.infrastructure.transport.channel",
    "deadline_after": "holdfast.infrastructure.resilience.deadline",
    "explain": "holdfast.infrastructure.resilience.pipeline",
    "fallback": "holdfast.infrastructure.resilience.fallback",
    "hedge": "holdfast.infrastructure.resilience.hedge",
    "hedge_errors": "holdfast.infrastructure.resilience.hedge",
    "httpx_transport": "holdfast.infrastructure.transport.http",
    "live": "holdfast.infrastructure.resilience.live",
    "live_breakers": "holdfast.infrastructure.resilience.circuit_breaker",
    "metered": "holdfast.infrastructure.resilience.meter",
    "meters": "holdfast.infrastructure.resilience.meter",
    "outgoing_headers": "holdfast.infrastructure.transport.propagation",
    "rate_limit": "holdfast.infrastructure.resilience.rate_limit",
    "recommended": "holdfast.infrastructure.resilience.registry",
    "redis_rate_limit": "holdfast.infrastructure.store.redis_rate_limit",
    "register_classifier": "holdfast.infrastructure.resilience.classify",
    "registry": "holdfast.infrastructure.resilience.registry",
    "remaining": "holdfast.infrastructure.resilience.deadline",
    "resilient": "holdfast.infrastructure.resilience.registry",
    "retry": "holdfast.infrastructure.resilience.retry",
    "retry_after": "holdfast.infrastructure.resilience.classify",
    "subscribe": "holdfast.infrastructure.resilience.events",
    "throttle": "holdfast.infrastructure.resilience.throttle",
    "timeout": "holdfast.infrastructure.resilience.timeout",
    "use_clock": "holdfast.infrastructure.resilience.clock",
    "use_random": "holdfast.infrastructure.resilience.randomness",
    "watch_degraded": "holdfast.infrastructure.resilience.fallback",
    "with_aggressive_resilience": "holdfast.infrastructure.resilience.operations",
    "with_balanced_resilience": "holdfast.infrastructure.resilience.operations",
    "with_conservative_resilience": "holdfast.infrastructure.resilience.operations",
    "with_critical_resilience": "holdfast.infrastructure.resilience.operations",
    "with_operation_resilience": "holdfast.infrastructure.resilience.operations",
}

__all__ = [
    "AIMD",
    "PERMANENT",
    "THROTTLED",
    "TRANSIENT",
    "AsyncHttpHandler",
    "AsyncHttpxTransport",
    "Attempt",
    "Backoff",
    "BudgetExhausted",
    "Bulkhead",
    "BulkheadConfig",
    "BulkheadFullError",
    "Cache",
    "CacheConfig",
    "CacheInfo",
    "CacheRefreshFailed",
    "CacheServed",
    "CallDelayed",
    "CallRejected",
    "CallRejectedError",
    "CallTimedOut",
    "CallbackFailed",
    "ChannelError",
    "ChannelPeer",
    "ChannelPeerConfig",
    "ChannelServer",
    "ChannelServerConfig",
    "Chaos",
    "ChaosConfig",
    "ChaosInjected",
    "CircuitBreaker",
    "CircuitBreakerConfig",
    "CircuitBreakers",
    "CircuitClosed",
    "CircuitHalfOpened",
    "CircuitOpenError",
    "CircuitOpened",
    "CircuitOverridden",
    "CircuitState",
    "Classifier",
    "Clock",
    "CommandFailed",
    "ConcurrencyLimit",
    "ConcurrencyLimitConfig",
    "ConcurrencyLimitedError",
    "ConfigurationError",
    "Event",
    "Explanation",
    "Fallback",
    "FallbackConfig",
    "FallbackUsed",
    "Fault",
    "FrameIgnored",
    "Gradient2",
    "Hedge",
    "HedgeConfig",
    "HedgeStarted",
    "HedgeWon",
    "HoldfastError",
    "HttpFailed",
    "HttpHandler",
    "HttpxTransport",
    "LimitChanged",
    "Meter",
    "PeerBusy",
    "PeerDisconnected",
    "PeerJoined",
    "PeerLeft",
    "PeerNotConnected",
    "PeerRefused",
    "Permit",
    "Pipeline",
    "Policy",
    "ProbeExpired",
    "PropagationMiddleware",
    "Quantile",
    "RateLimit",
    "RateLimitConfig",
    "RateLimitedError",
    "RateLimits",
    "RedisBreakerStorage",
    "RedisRateLimit",
    "RedisRateLimitConfig",
    "Registry",
    "ReplyTimeout",
    "Resilient",
    "RetriesNested",
    "Retry",
    "RetryBudget",
    "RetryBudgetExhausted",
    "RetryConfig",
    "RetryGaveUp",
    "RetryScheduled",
    "RetrySucceeded",
    "StandingQueue",
    "StorageFailed",
    "Subscription",
    "Throttle",
    "ThrottleConfig",
    "ThrottledError",
    "Timeout",
    "TimeoutConfig",
    "TimeoutExceeded",
    "Verdict",
    "Window",
    "WindowCounts",
    "WorkerAbandoned",
    "abandoned_workers",
    "async_httpx_transport",
    "backoff",
    "breaker_of",
    "bulkhead",
    "cache",
    "caller_attempt",
    "chaos",
    "circuit_breaker",
    "classify",
    "concurrency_limit",
    "current_attempt",
    "current_clock",
    "current_deadline",
    "current_random",
    "current_request_id",
    "deadline_after",
    "explain",
    "fallback",
    "hedge",
    "hedge_errors",
    "httpx_transport",
    "live",
    "live_breakers",
    "metered",
    "meters",
    "outgoing_headers",
    "rate_limit",
    "recommended",
    "redis_rate_limit",
    "register_classifier",
    "registry",
    "remaining",
    "resilient",
    "retry",
    "retry_after",
    "subscribe",
    "throttle",
    "timeout",
    "use_clock",
    "use_random",
    "watch_degraded",
    "with_aggressive_resilience",
    "with_balanced_resilience",
    "with_conservative_resilience",
    "with_critical_resilience",
    "with_operation_resilience",
]


def __getattr__(name: str) -> Any:
    module = _EXPORTS.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(module), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
