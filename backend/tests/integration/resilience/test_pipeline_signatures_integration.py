"""Seam: compiled stacks of policies × every kind of callable, its signature, and what `source` and `explain` tell."""

import copy
import functools
import inspect
import itertools
import linecache
import math
import pickle
import sys
import traceback
import typing
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from backend.tests.integration.resilience._driver import Driver, Function
from backend.tests.integration.resilience._make import Make
from holdfast.infrastructure.resilience.backoff import Backoff
from holdfast.infrastructure.resilience.budget import RetryBudget
from holdfast.infrastructure.resilience.circuit_breaker import (
    CircuitBreaker,
    CircuitBreakers,
    breaker_of,
    circuit_breaker,
)
from holdfast.infrastructure.resilience.classify import THROTTLED, Classifier
from holdfast.infrastructure.resilience.deadline import remaining
from holdfast.infrastructure.resilience.errors import CircuitOpenError
from holdfast.infrastructure.resilience.events import Event
from holdfast.infrastructure.resilience.pipeline import Explanation, Pipeline, explain
from holdfast.infrastructure.resilience.policy import Policy
from holdfast.infrastructure.resilience.retry import Retry, current_attempt, retry
from holdfast.infrastructure.resilience.timeout import Timeout, timeout
from holdfast.infrastructure.resilience.window import Window, WindowCounts
from holdfast.testing.clock import VirtualClock
from holdfast.testing.faults import Script, Step, fail, succeed
from holdfast.testing.recorder import EventRecorder

DEFAULT = object()
MANY = ", ".join(f"p{number}" for number in range(300))

Call = tuple[tuple[Any, ...], dict[str, Any]]


def of(*args: Any, **kwargs: Any) -> Call:
    return args, kwargs


def is_ellipsis(result: object) -> bool:
    return result is ...


def is_error(error: Exception) -> bool:
    return isinstance(error, ConnectionError)


def same_key(*args: object, **kwargs: object) -> int:
    return 0


# Parameters as they are written, and calls of them, good and bad.
SIGNATURES: dict[str, list[Call]] = {
    "": [of(), of(1), of(a=1)],
    "a": [of(1), of(a=1), of(), of(1, 2), of(1, a=1), of(b=1)],
    "a, b=DEFAULT": [of(1), of(1, 2), of(b=2, a=1), of(b=1), of(1, 2, 3)],
    "a=None, b=0, c=''": [of(), of(c=1), of(None, None, None)],
    "a, /": [of(1), of(a=1), of()],
    "a, b=DEFAULT, /, c=2, *, d, e=DEFAULT": [of(1, d=4), of(1, 2, 3, d=4, e=5), of(1), of(1, b=2, d=4)],
    "a=1, /, **kwargs": [of(), of(5, a=6), of(b=2)],
    "*args": [of(), of(1, 2, 3), of(a=1)],
    "**kwargs": [of(), of(a=1, b=2), of(1)],
    "*args, **kwargs": [of(), of(1, a=2)],
    "a, *args, k, **kwargs": [of(1, k=2), of(1, 2, 3, k=4, z=5), of(1), of(k=1), of(1, k=2, a=3)],
    "*, k": [of(k=1), of(), of(1)],
    "*, k=DEFAULT, m": [of(m=1), of(m=1, k=2), of()],
    "*args, k=DEFAULT": [of(1, 2), of(k=3)],
    "_a, __b=DEFAULT": [of(1), of(_a=1, __b=2), of()],
    "_result, _stack, _fn, _error, _now": [of(1, 2, 3, 4, 5), of(1)],
    "_args, *_kwargs": [of(1, 2, 3), of(_args=1)],
    "*_args, **_kwargs": [of(1, 2, a=3)],
    "_failed0=1, _m0=2, _w0=3, _permit0=4": [of(), of(_w0=5)],
    "self, cls, Exception, BaseException": [of(1, 2, 3, 4), of(self=1, cls=2, Exception=3, BaseException=4)],
    "Exception=DEFAULT": [of(), of(Exception=1)],
    "call, fast, args, kwargs": [of(1, 2, 3, 4), of(call=1, fast=2, args=3, kwargs=4), of(1)],
    "*call, **fast": [of(1, b=2)],
    "fn, args=(), kwargs=None": [of(1), of(fn=1, kwargs={}), of()],
    "match, case, type, _=DEFAULT": [of(1, 2, 3), of(match=1, case=2, type=3, _=4)],
    "print, len, id, hasattr": [of(1, 2, 3, 4), of()],
    "é, ﬁn=1, 名=DEFAULT": [of(1), of(1, fin=2, 名=3)],
    "a: int, b: 'list[str]' = DEFAULT, *c: float, d: 'Missing' = 1, **e: object": [
        of(1),
        of(1, 2, 3, d=4, f=5),
    ],
    MANY: [of(*range(300)), of(*range(299)), of(**{f"p{number}": number for number in range(300)})],
}
STACKS: dict[str, Callable[[Make], list[Policy]]] = {
    "retry": lambda make: [make.retry()],
    "breaker": lambda make: [make.breaker()],
    "slow breaker": lambda make: [make.breaker(slow_call_duration=1.0)],
    "listening breaker": lambda make: [make.breaker(listeners=(object(),))],
    "timeout": lambda make: [make.timeout(5.0)],
    "everything": lambda make: [
        make.timeout(60.0),
        make.retry(result=is_ellipsis, budget=make.budget(), deadline=50.0),
        make.breakers(key=same_key),
        make.breaker(result=is_ellipsis),
        make.timeout(5.0),
    ],
}


def written(parameters: str, mode: str, body: str = "return dict(locals())") -> Callable[..., Any]:
    """Return a function with just these parameters, as somebody would write it."""
    made: dict[str, Any] = {"DEFAULT": DEFAULT, "__name__": __name__}
    head = "async def" if mode == "async" else "def"
    exec(f"{head} function({parameters}) -> object:\n    'Tell what came.'\n    {body}", made)
    function: Callable[..., Any] = made["function"]
    return function


async def outcome(driver: Driver, fn: Function, call: Call) -> tuple[str, Any]:
    """Return what a call gives, or the text of its TypeError."""
    args, kwargs = call
    try:
        return "result", await driver.ask(fn, *args, **kwargs)
    except TypeError as error:
        return "refused", str(error)


def same(found: tuple[str, Any], expected: tuple[str, Any]) -> bool:
    """Compare, results by the identity of every argument."""
    if expected[0] == "refused" or not isinstance(expected[1], dict):
        return found == expected
    left, right = typing.cast("dict[str, Any]", found[1]), typing.cast("dict[str, Any]", expected[1])
    return list(left) == list(right) and all(map(alike, left.values(), right.values()))


def alike(one: object, other: object) -> bool:
    """Say whether an argument is the same object; packed ones are equal."""
    return one is other or (isinstance(one, (tuple, dict)) and one == other)


# Signatures


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("parameters", SIGNATURES, ids=lambda text: text[:40] or "none")
def test_a_decorated_function_takes_what_it_took(
    driver: Driver, make: Make, parameters: str, stack: str
) -> None:
    """Every call gives what the bare function gives: the same objects, or the same words of refusal."""
    bare = written(parameters, driver.mode)
    decorated = Pipeline(*STACKS[stack](make))(bare)

    async def calls() -> None:
        for call in SIGNATURES[parameters]:
            expected = await outcome(driver, bare, call)
            assert same(await outcome(driver, decorated, call), expected)
            assert same(await outcome(driver, decorated, call), expected)

    driver.run(calls)
    assert inspect.signature(decorated) == inspect.signature(bare)
    assert inspect.iscoroutinefunction(decorated) is (driver.mode == "async")


@pytest.mark.parametrize("parameters", SIGNATURES, ids=lambda text: text[:40] or "none")
def test_later_attempts_get_the_same_arguments(driver: Driver, make: Make, parameters: str) -> None:
    """A second and third attempt, and a half-open probe, are made with just what the first was made with."""
    bare, failing = (
        written(parameters, driver.mode),
        written(parameters, driver.mode, "return play(dict(locals()))"),
    )
    tries: list[dict[str, Any]] = []

    def play(arguments: dict[str, Any]) -> dict[str, Any]:
        tries.append(arguments)
        if len(tries) % 3:
            raise ConnectionError
        return arguments

    failing.__globals__["play"] = play
    breaker = make.breaker()
    decorated = Pipeline(make.retry(3), breaker, make.timeout(5.0))(failing)

    async def calls() -> None:
        for call in SIGNATURES[parameters]:
            expected = await outcome(driver, bare, call)
            breaker.close()
            assert same(await outcome(driver, decorated, call), expected)
            made = tries[-3:] if expected[0] == "result" else []
            assert all(same(("result", arguments), expected) for arguments in made)

    driver.run(calls)
    accepted = len(tries) // 3
    assert len(tries) == 3 * accepted > 0
    assert breaker.counts == WindowCounts(0, 0, 0)


@pytest.mark.parametrize("calls", [1, 15, 16, 17, 40])
def test_the_code_may_change_after_some_calls_but_not_the_results(
    driver: Driver, make: Make, calls: int
) -> None:
    """However often it was called, defaults, names and refusals stay those of the function."""
    bare = written("a, b=DEFAULT, *c, d=DEFAULT, **e", driver.mode)
    decorated = make.pipeline(make.retry(), make.breaker())(bare)
    for _ in range(calls):
        driver.call(decorated, 1)

    async def compare() -> None:
        for call in (of(1), of(1, 2, 3, d=4, f=5), of(), of(1, a=1)):
            assert same(await outcome(driver, decorated, call), await outcome(driver, bare, call))

    driver.run(compare)


def test_a_mutable_default_is_one_object(driver: Driver, make: Make) -> None:
    """Bare and decorated function share a default, as one function's calls do."""
    bare = written("log=[]", driver.mode, "log.append(1); return log")
    decorated = driver_stack(make)(bare)
    assert driver.call(decorated) is driver.call(bare)
    assert driver.call(decorated) == [1, 1, 1]


def driver_stack(make: Make) -> Pipeline:
    return make.pipeline(make.retry(), make.breaker(), make.timeout(5.0))


def test_what_a_function_says_of_itself_stays(driver: Driver, make: Make) -> None:
    """Name, module, docstring, annotations, attributes: all as written, and the original is `__wrapped__`."""
    bare = written("a: int, b: 'str' = ''", driver.mode)
    vars(bare)["marker"] = DEFAULT
    decorated: Any = driver_stack(make)(bare)
    for name in ("__name__", "__qualname__", "__module__", "__doc__", "__annotations__", "__defaults__"):
        assert getattr(decorated, name) == getattr(bare, name)
    assert (decorated.marker, decorated.__wrapped__, inspect.unwrap(decorated)) == (DEFAULT, bare, bare)
    assert typing.get_type_hints(decorated) == typing.get_type_hints(bare)
    assert inspect.getdoc(decorated) == "Tell what came."


@pytest.mark.skipif(sys.version_info < (3, 12), reason="type parameters are of Python 3.12")
def test_type_parameters_stay(make: Make) -> None:
    """A generic function stays generic."""
    made: dict[str, Any] = {}
    exec("def first[T](items: list[T]) -> T: return items[0]", made)
    decorated: Any = make.retry()(made["first"])
    assert decorated.__type_params__ == made["first"].__type_params__ != ()


# Kinds of callables


class Base(ABC):
    """Every kind of method, by each order of decorators."""

    policy = Pipeline(Retry(3, wait=0.0), CircuitBreaker("methods"))

    def __init__(self, *script: Step) -> None:
        self.script = Script(*script)

    @policy
    def method(self, a: int, *, b: int = 2) -> tuple[object, int, int, object]:
        """Tell what came."""
        return self, a, b, self.script()

    @policy
    async def amethod(self, a: int, *, b: int = 2) -> tuple[object, int, int, object]:
        """Tell what came."""
        return self, a, b, await self.script.async_()

    @classmethod
    @policy
    def class_outside(cls, a: int = 1) -> tuple[object, int]:
        """Tell what came."""
        return cls, a

    @policy
    @classmethod
    def class_inside(cls, a: int = 1) -> tuple[object, int]:
        """Tell what came."""
        return cls, a

    @staticmethod
    @policy
    def static_outside(a: int = 1) -> int:
        """Tell what came."""
        return a

    @policy
    @staticmethod
    def static_inside(a: int = 1) -> int:
        """Tell what came."""
        return a

    @property
    @policy
    def attribute(self) -> object:
        """Tell what came."""
        return self.script()

    @policy
    def __call__(self, a: int) -> int:
        """Tell what came."""
        self.script()
        return a

    @policy
    def __mangled(self, __a: int, *, __b: int = 1) -> int:  # noqa: PYI063  # the name is the point
        return __a * __b

    def mangled(self, a: int) -> int:
        """Reach what is private."""
        return self.__mangled(a)

    @abstractmethod
    @policy
    def planned(self) -> str:
        """Say that this is the base."""
        return "base"


class Derived(Base):
    """Overrides, and calls what it overrides."""

    @Base.policy
    def planned(self) -> str:
        """Say both."""
        return "derived " + super().planned()


def test_methods_are_bound_as_ever(virtual_clock: object) -> None:
    """A decorated method gets its own object, on the first and on later attempts."""
    one, other = Derived(fail(), fail(), succeed()), Derived(succeed("fine"))
    assert one.method(5) == (one, 5, 2, "ok")
    assert other.method(6, b=7) == (other, 6, 7, "fine")
    assert (one.script.calls, other.script.calls) == (3, 1)
    assert Derived.method(one, 1) == (one, 1, 2, "ok")
    assert one.method == one.method


def test_async_methods_are_bound_as_ever(make: Make, virtual_clock: VirtualClock) -> None:
    """An async method, too, gets its own object at every attempt."""
    one = Derived(fail(), fail(), succeed())
    assert virtual_clock.run(one.amethod(5, b=6)) == (one, 5, 6, "ok")
    assert one.script.calls == 3


def test_class_and_static_methods_work_in_both_orders() -> None:
    """`@classmethod` and `@staticmethod` may stand above or below the policy."""
    for owner in (Derived, Derived(succeed())):
        assert owner.class_outside() == owner.class_inside() == (Derived, 1)
        assert owner.class_outside(2) == owner.class_inside(2) == (Derived, 2)
        assert owner.static_outside() == owner.static_inside() == 1
        assert owner.static_outside(2) == owner.static_inside(2) == 2
    for name in ("class_outside", "class_inside", "static_outside", "static_inside"):
        assert breaker_of(getattr(Derived, name)).name == "methods"


def test_other_kinds_of_methods_work(virtual_clock: object) -> None:
    """Properties, `__call__`, private names, overridden and abstract methods stay what they are."""
    one = Derived(fail(), succeed("read"), fail(), succeed())
    assert one.attribute == "read"
    assert one(8) == 8
    assert one.mangled(9) == 9
    assert one.planned() == "derived base"
    assert one.script.calls == 4
    with pytest.raises(TypeError, match=r"abstract.*planned"):
        Base()  # type: ignore[abstract]


class Callable_:
    """A callable object with a state."""

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.calls = 0

    def answer(self, a: int, b: int) -> tuple[int, int]:
        """Fail at first."""
        self.calls += 1
        if self.calls == 1:
            raise ConnectionError
        return a, b


class SyncCallable(Callable_):
    """Called as a function."""

    def __call__(self, a: int, b: int = 2) -> tuple[int, int]:
        """Fail at first."""
        return self.answer(a, b)


class AsyncCallable(Callable_):
    """Awaited as a coroutine function."""

    async def __call__(self, a: int, b: int = 2) -> tuple[int, int]:
        """Fail at first."""
        return self.answer(a, b)


class SyncHeir(SyncCallable):
    """Inherits how it is called."""


class AsyncHeir(AsyncCallable):
    """Inherits how it is called."""


def kinds(mode: str) -> dict[str, Callable[..., Any]]:
    """Return callables that fail at first and then return (a, b), by kind."""
    target: Any = SyncCallable(mode) if mode == "sync" else AsyncCallable(mode)
    heir: Any = SyncHeir(mode) if mode == "sync" else AsyncHeir(mode)

    def closure(a: int, b: int = 2) -> Any:
        return target(a, b)

    async def aclosure(a: int, b: int = 2) -> Any:
        return await target(a, b)

    inner: Any = closure if mode == "sync" else aclosure
    lambda_: Any = eval("lambda a, b=2: target(a, b)", {"target": target}) if mode == "sync" else aclosure
    return {
        "callable object": target,
        "callable object of a subclass": heir,
        "partial": functools.partial(inner, b=2),
        "partial of a partial": functools.partial(functools.partial(inner), b=2),
        "partial of a callable object": functools.partial(target, b=2),
        "partial of a bound method": functools.partial(target.__call__, b=2),
        "lambda": lambda_,
        "closure": inner,
    }


@pytest.mark.parametrize("kind", list(kinds("sync")))
def test_every_kind_of_callable_is_held(driver: Driver, make: Make, kind: str) -> None:
    """Whatever can be called can be decorated, is retried, and keeps its signature."""
    fn = kinds(driver.mode)[kind]
    decorated = make.retry()(fn)
    assert inspect.iscoroutinefunction(decorated) is (driver.mode == "async")
    assert inspect.signature(decorated) == inspect.signature(fn)
    assert driver.outcomes(2, decorated, 1) == [(1, 2), (1, 2)]
    assert driver.clock.sleeps.count(1.0) == 1


@pytest.mark.parametrize(
    ("fn", "args", "expected"),
    [
        (len, ([1, 2],), 2),
        ("".join, (["a", "b"],), "ab"),
        (str.upper, ("a",), "A"),
        (math.hypot, (3, 4), 5.0),
    ],
    ids=["builtin", "bound builtin", "method of a builtin type", "without a signature"],
)
def test_functions_written_in_c_are_held(
    make: Make, fn: Callable[..., Any], args: tuple[Any, ...], expected: object
) -> None:
    """C functions, which have no code to read, pass all arguments on and keep name and signature."""
    decorated: Any = driver_stack(make)(fn)
    assert [decorated(*args) for _ in range(20)] == [expected] * 20
    assert (decorated.__name__, decorated.__wrapped__) == (fn.__name__, fn)
    try:
        signature = inspect.signature(fn)
    except ValueError:
        return
    assert inspect.signature(decorated) == signature


def test_wrappers_of_functools_are_held(make: Make) -> None:
    """A cached function, and one with variants by type, work under a policy."""
    calls: list[object] = []

    @functools.lru_cache
    def cached(a: int) -> int:
        calls.append(a)
        return a

    @functools.singledispatch
    def shown(a: object) -> str:
        return "object"

    def shown_int(a: int) -> str:
        return "int"

    shown.register(int, shown_int)
    decorated, variants = make.retry()(cached), make.retry()(shown)
    assert [decorated(1), decorated(1), len(calls)] == [1, 1, 1]
    assert [variants("a"), variants(1)] == ["object", "int"]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="markcoroutinefunction is of Python 3.12")
def test_a_marked_coroutine_function_is_async(virtual_clock: VirtualClock, make: Make) -> None:
    """A function that says of itself that it returns a coroutine is awaited."""

    async def answer(a: int) -> int:
        if current_attempt() == 1:
            raise ConnectionError
        return a

    def marked(a: int) -> Coroutine[Any, Any, int]:
        return answer(a)

    mark: Callable[..., Any] = getattr(inspect, "markcoroutinefunction")  # noqa: B009  # of Python 3.12
    assert virtual_clock.run(make.retry()(mark(marked))(5)) == 5


@retry(attempts=3, wait=0.0)
@circuit_breaker(window=Window.consecutive(100))
def picklable(a: int, b: int = 2) -> tuple[int, int]:
    """Stand at the top of a module."""
    return a, b


@timeout(5.0)
async def apicklable(a: int) -> int:
    """Stand at the top of a module."""
    return a


def test_decorated_functions_are_pickled_by_reference() -> None:
    """A decorated function of a module goes to another process as any function does: by its name."""
    for fn in (picklable, apicklable):
        assert pickle.loads(pickle.dumps(fn)) is fn
        assert copy.copy(fn) is copy.deepcopy(fn) is fn
    assert pickle.loads(pickle.dumps(functools.partial(picklable, 1)))() == (1, 2)


# Stacks


@pytest.mark.parametrize("script", ["S", "FS", "FFS", "FFF", "FFFFFFFFS", "P", "FP"])
def test_stacked_decorators_are_a_pipeline(
    driver: Driver, make: Make, event_recorder: EventRecorder, script: str
) -> None:
    """The same policies written as decorators or as a `Pipeline`: same calls, same times, same events."""

    def story(build: Callable[[list[Policy], Script], Function]) -> list[Any]:
        event_recorder.clear()
        steps = {"S": succeed(), "F": fail(), "P": fail(ValueError)}
        played, begun = Script(*(steps[one] for one in script)), driver.clock.monotonic()
        policies: list[Policy] = [make.timeout(100.0), make.retry(3), make.breaker(4), make.timeout(2.0)]
        outcomes = driver.outcomes(3, build(policies, played), every=1.0)
        shown = [(type(event).__name__, event.name, event.at - begun) for event in event_recorder.events]
        return [list(map(repr, outcomes)), [at - begun for at in played.times], shown]

    stacked = story(lambda policies, played: driver.compose("decorators", *policies, source=played))
    piped = story(lambda policies, played: driver.decorate(Pipeline(*policies), played))
    mixed = story(
        lambda policies, played: policies[0](
            Pipeline(policies[1], Pipeline(policies[2]))(driver.decorate(policies[3], played))
        )
    )
    assert stacked == piped == mixed


def test_stacked_decorators_are_one_function(driver: Driver, make: Make) -> None:
    """Four decorators compile to one function around the original, with one source."""
    policies = [make.timeout(100.0), make.retry(3), make.breaker(4), make.timeout(2.0)]
    bare = written("a", driver.mode)
    decorated: Any = bare
    for policy in reversed(policies):
        decorated = policy(decorated)
    assert decorated.__wrapped__ is bare
    assert explain(decorated).policies == tuple(map(repr, policies))
    assert Pipeline(*policies[:2]).source(Pipeline(*policies[2:])(bare)) == Pipeline(*policies).source(bare)


def test_pipelines_in_pipelines_are_flat(make: Make) -> None:
    """Nesting pipelines only groups what is written."""
    one, two, three = make.timeout(9.0), make.retry(), make.breaker()
    assert Pipeline(Pipeline(one, Pipeline(two)), three).policies == (one, two, three)


@pytest.mark.parametrize("calls", [1, 20])
def test_a_foreign_decorator_between_ours_is_not_skipped(driver: Driver, make: Make, calls: int) -> None:
    """Somebody else's wrapper in the middle, which copies all attributes, runs once per outer attempt."""
    passed: list[str] = []

    def foreign(fn: Function) -> Function:
        if driver.mode == "async":

            @functools.wraps(fn)
            async def awrapper(*args: Any, **kwargs: Any) -> Any:
                passed.append("foreign")
                return await fn(*args, **kwargs)

            return awrapper

        @functools.wraps(fn)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            passed.append("foreign")
            return fn(*args, **kwargs)

        return wrapper

    steps = [step for _ in range(calls) for step in (fail(), fail(), fail(), succeed())]
    script = Script(*steps)
    inner = make.retry(2, name="inner")(driver.function(script))
    decorated: Any = make.retry(2, name="outer")(foreign(inner))
    assert driver.outcomes(calls, decorated) == ["ok"] * calls
    assert (len(passed), script.calls) == (2 * calls, 4 * calls)
    assert decorated.__wrapped__.__wrapped__ is inner
    assert explain(decorated).attempts == 2


def test_a_wrapper_of_ours_that_wears_anothers_attributes_is_not_skipped(driver: Driver, make: Make) -> None:
    """A decorated wrapper that was given the attributes of what it wraps is still called itself."""
    passed: list[str] = []
    inner = driver.decorate(make.retry(), Script(succeed("inner")))

    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        passed.append("wrapper")
        return await driver.ask(inner, *args, **kwargs)

    dressed = functools.update_wrapper(driver.decorate(make.retry(), wrapper), inner)
    outer = make.timeout(5.0)(dressed)
    assert driver.call(outer) == "inner"
    assert passed == ["wrapper"]


def test_a_function_can_have_several_lives(driver: Driver, make: Make) -> None:
    """Decorating one function twice gives two functions that share nothing but what they wrap."""
    bare = driver.function(Script(fail(), fail(), succeed()))
    once, thrice = make.retry(1)(bare), make.retry(3)(bare)
    assert isinstance(driver.outcomes(1, once)[0], ConnectionError)
    assert driver.outcomes(1, thrice) == ["ok"]


def test_policies_on_policies_leave_what_is_below_alone(driver: Driver, make: Make) -> None:
    """Decorating a decorated function leaves the inner one as it was, for whoever calls it directly."""
    script = Script(*[fail()] * 5, succeed())
    inner = driver.decorate(make.retry(2, name="inner"), script)
    outer = make.retry(2, name="outer")(inner)
    assert isinstance(driver.outcomes(1, outer)[0], ConnectionError)
    assert script.calls == 4
    assert driver.outcomes(1, inner) == ["ok"]
    assert script.calls == 6


def test_a_recursive_function_is_held_at_every_level(driver: Driver, make: Make) -> None:
    """A function that calls itself passes the policies each time: attempts multiply, as everybody's do."""
    calls: list[int] = []
    decorated: list[Function] = []

    async def count(depth: int) -> int:
        calls.append(depth)
        if depth == 0:
            raise ConnectionError
        result: int = await driver.ask(decorated[0], depth - 1)
        return result

    decorated.append(driver.decorate(make.retry(2, name=None), count))
    assert isinstance(driver.outcomes(1, decorated[0], 2)[0], ConnectionError)
    assert [calls.count(depth) for depth in (2, 1, 0)] == [2, 4, 8]


def test_a_breaker_may_be_entered_again_by_its_own_call(driver: Driver, make: Make) -> None:
    """A call that calls itself takes the breaker twice, and trips it while it runs, without a deadlock."""
    breaker, decorated = make.breaker(2), list[Function]()

    async def count(depth: int) -> str:
        if depth:
            return str(await driver.ask(decorated[0], depth - 1))
        raise ConnectionError

    decorated.append(driver.decorate(breaker, count))
    assert isinstance(driver.outcomes(1, decorated[0], 3)[0], ConnectionError)
    assert breaker.retry_after == 5.0
    assert isinstance(driver.outcomes(1, decorated[0], 0)[0], CircuitOpenError)


# What two policies of one kind can differ in.
VARIANTS: dict[str, Callable[[VirtualClock], Policy]] = {
    "retry": lambda clock: Retry(3, wait=1.0),
    "one attempt": lambda clock: Retry(1, wait=1.0),
    "no limit": lambda clock: Retry(None, wait=1.0, deadline=4.0),
    "a predicate": lambda clock: Retry(3, wait=1.0, on=is_ellipsis),
    "a classifier": lambda clock: Retry(3, wait=1.0, on=Classifier(permanent=(ConnectionError,))),
    "a result predicate": lambda clock: Retry(3, wait=1.0, result=is_ellipsis),
    "a budget": lambda clock: Retry(3, wait=1.0, budget=RetryBudget(ratio=0.0, min_per_second=1.0)),
    "a deadline": lambda clock: Retry(3, wait=1.0, deadline=1.5),
    "a function that waits": lambda clock: Retry(3, wait=two),
    "a function that stops": lambda clock: Retry(wait=1.0, stop=is_second),
    "a callback": lambda clock: Retry(3, wait=1.0, before=two),
    "a clock": lambda clock: Retry(3, wait=1.0, clock=clock),
    "a clock and a function": lambda clock: Retry(3, wait=two, clock=clock),
    "a predicate and a function": lambda clock: Retry(3, wait=two, on=is_error),
    "a predicate, a function and a clock": lambda clock: Retry(3, wait=two, on=is_error, clock=clock),
    "breaker": lambda clock: CircuitBreaker("x", window=Window.consecutive(2)),
    "a breaker with another window": lambda clock: CircuitBreaker("x", window=Window.calls(3), min_calls=3),
    "a breaker with a time window": lambda clock: CircuitBreaker("x", window=Window.seconds(10), min_calls=1),
    "a breaker with slow calls": lambda clock: CircuitBreaker(
        "x", window=Window.consecutive(2), slow_call_duration=9.0
    ),
    "a breaker with a clock": lambda clock: CircuitBreaker("x", window=Window.consecutive(1), clock=clock),
    "a breaker with a predicate": lambda clock: CircuitBreaker(
        "x", window=Window.consecutive(1), result=is_ellipsis
    ),
    "a family": lambda clock: CircuitBreakers("x", key=same_key, window=Window.consecutive(2)),
    "a family with a clock": lambda clock: CircuitBreakers(
        "x", key=same_key, window=Window.consecutive(2), clock=clock
    ),
    "timeout": lambda clock: Timeout(0.5),
    "a timeout with a clock": lambda clock: Timeout(0.5, clock=clock),
}
_names = itertools.count()


def two(retry_state: object) -> float:
    """Wait 2 s; as a callback, do nothing."""
    return 2.0


def is_second(retry_state: Any) -> bool:
    return bool(retry_state.attempt_number == 2)


@pytest.mark.parametrize("name", VARIANTS)
def test_compiled_code_is_shared_only_where_it_is_the_same(driver: Driver, name: str) -> None:
    """Whatever was decorated before with the same signature, a policy does what it does on its own."""

    def story(policy: Policy, parameter: str, own: VirtualClock) -> tuple[Any, ...]:
        body = "return play()" if driver.mode == "sync" else "return await play()"
        fn = written(parameter, driver.mode, body)
        calls: list[float] = []
        begun, waited = driver.clock.monotonic(), len(driver.clock.sleeps)

        async def play() -> None:
            calls.append(driver.clock.monotonic() - begun)
            await driver.sleep(0.25)
            raise ConnectionError

        fn.__globals__["play"] = driver.function(play)
        outcomes = driver.outcomes(3, policy(fn), 1)
        return list(map(type, outcomes)), calls, driver.clock.sleeps[waited:], own.sleeps

    def fresh() -> str:
        return f"parameter_{next(_names)}"

    def alone(parameter: str) -> tuple[Any, ...]:
        own = VirtualClock()
        return story(VARIANTS[name](own), parameter, own)

    expected = alone(fresh())
    differing: list[str] = []
    for before, other in VARIANTS.items():
        used = fresh()
        policy = other(driver.clock)
        policy(written(used, driver.mode))
        if type(policy) is type(VARIANTS[name](driver.clock)) and alone(used) != expected:
            differing.append(before)
    assert differing == []


# Through a policy


@pytest.mark.parametrize("parameters", SIGNATURES, ids=lambda text: text[:40] or "none")
def test_call_passes_all_arguments(driver: Driver, make: Make, parameters: str) -> None:
    """`policy.call(fn, …)` gives what the bare call gives, whatever the parameters are called."""
    bare, policy = written(parameters, driver.mode), driver_stack(make)
    through = functools.partial(policy.call, bare)

    async def calls() -> None:
        for call in SIGNATURES[parameters]:
            assert same(await outcome(driver, through, call), await outcome(driver, bare, call))

    driver.run(calls)


def test_call_is_the_decorated_function(driver: Driver, make: Make, event_recorder: EventRecorder) -> None:
    """Called through a pipeline, a function has the same attempts, times and events as decorated with it."""

    def story(build: Callable[[Pipeline, Function], Function]) -> tuple[Any, ...]:
        event_recorder.clear()
        script, begun = Script(fail(), succeed(), fail(), fail(), fail(), succeed()), driver.clock.monotonic()
        pipeline = make.pipeline(make.retry(3, name=None), make.breaker(4), make.timeout(2.0))
        outcomes = driver.outcomes(3, build(pipeline, driver.function(script)), 1, every=1.0)
        events = [(type(event).__name__, event.name, event.at - begun) for event in event_recorder.events]
        return list(map(repr, outcomes)), [at - begun for at in script.times], script.arguments, events

    called = story(lambda pipeline, fn: functools.partial(pipeline.call, fn))
    assert called == story(lambda pipeline, fn: pipeline(fn))


def test_what_cannot_be_decorated_can_be_called(driver: Driver, make: Make) -> None:
    """`call` takes classes and bound methods, which belong to one call only."""
    one = Derived(succeed())
    policy = make.retry()
    assert policy.call(one.script, 1) == "ok"
    assert policy.call(dict, a=1) == {"a": 1}
    assert policy.call(one.planned) == "derived base"
    assert driver.call(
        functools.partial(policy.call, one.script.async_ if driver.mode == "async" else one.script)
    )


# Refusals


def generates() -> Iterator[int]:
    """Yield."""
    yield 1


async def agenerates() -> AsyncIterator[int]:
    """Yield."""
    yield 1


class Generating:
    """Yields when it is called."""

    def __call__(self) -> Iterator[int]:
        """Yield."""
        yield 1


REFUSED: list[tuple[Any, str]] = [
    (generates, r"generates is a generator function.*one step.*for attempt in Retry"),
    (functools.partial(generates), r"is a generator function"),
    (Generating(), r"is a generator function"),
    (Generating().__call__, r"is a generator function"),
    (agenerates, r"agenerates is an async generator function.*one step"),
    (staticmethod(generates), r"generates is a generator function"),
    (Derived, r"Derived is a class.*policy\.call\(Derived"),
    (Derived(succeed()).planned, r"planned is an already bound method.*in its class.*policy\.call"),
    (property(lambda self: 1), r"property.*below @property"),
    (functools.cached_property(lambda self: 1), r"not callable"),
    (5, r"5 is not callable: decorate a function; settings are given by keyword"),
    (None, r"None is not callable"),
    ("name", r"'name' is not callable.*by keyword, a name as name='name'"),
]


@pytest.mark.parametrize(("target", "message"), REFUSED, ids=[message[:30] for _, message in REFUSED])
@pytest.mark.parametrize("stack", STACKS)
def test_wrong_targets_are_refused_when_decorated(make: Make, target: Any, message: str, stack: str) -> None:
    """What no policy can hold is a TypeError at once, which says what to do instead."""
    with pytest.raises(TypeError, match=message):
        Pipeline(*STACKS[stack](make))(target)


@pytest.mark.parametrize("decorator", [retry, circuit_breaker(fail_max=1), timeout(1.0)])
@pytest.mark.parametrize(
    ("target", "message"), REFUSED[:-2], ids=[message[:30] for _, message in REFUSED[:-2]]
)
def test_the_decorators_refuse_as_the_policies_do(decorator: Any, target: Any, message: str) -> None:
    """`@retry`, `@circuit_breaker` and `@timeout` refuse the same, with the same words."""
    with pytest.raises(TypeError, match=message):
        decorator(target)


@pytest.mark.parametrize(("target", "message"), REFUSED[:5], ids=[message[:30] for _, message in REFUSED[:5]])
def test_generators_are_refused_when_called_through(make: Make, target: Any, message: str) -> None:
    """A generator is not held by `call` either: nothing has run when it returns."""
    with pytest.raises(TypeError, match=message):
        make.retry().call(target)


class Awaited:
    """Something to await that is no coroutine."""

    def __await__(self) -> Iterator[None]:
        """Wait for nothing."""
        yield


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("calls", ["decorated", "through call"])
def test_a_sync_function_that_returns_an_awaitable_is_refused_when_called(
    make: Make, stack: str, calls: str
) -> None:
    """A `def` that hands back a coroutine is found out at its first call, and the coroutine is closed."""

    async def work() -> None:
        raise AssertionError

    def returns_coroutine() -> Any:
        return work()

    policy = Pipeline(*STACKS[stack](make))
    fn = (
        policy(returns_coroutine)
        if calls == "decorated"
        else functools.partial(policy.call, returns_coroutine)
    )
    with pytest.raises(
        TypeError, match=r"returned coroutine, which must be awaited.*make the function `async def`"
    ):
        fn()


def test_any_awaitable_is_refused(make: Make) -> None:
    """Futures of event loops and objects with `__await__` are refused; results of thread pools are not."""

    def same(value: object) -> object:
        return value

    decorated = make.retry()(same)
    with pytest.raises(TypeError, match="returned Awaited"):
        decorated(Awaited())
    future = Future[int]()
    assert decorated(future) is future
    assert make.retry()(lambda: Awaited)() is Awaited


def test_an_awaitable_after_other_results_is_refused(make: Make) -> None:
    """A function that mostly returns values is found out within its first calls."""
    results: list[object] = [1, 2, 3, Awaited()]
    decorated = make.retry()(results.pop)
    with pytest.raises(TypeError, match="returned Awaited"):
        decorated()


@pytest.mark.parametrize("policies", [(), (5,), (Retry(), None), (Retry,)])
def test_a_pipeline_takes_policies_only(policies: tuple[Any, ...]) -> None:
    """A pipeline of nothing, or of something else, is refused with what to give."""
    with pytest.raises(TypeError, match=r"policies such as Retry\(\)|at least one policy"):
        Pipeline(*policies)


# Names


def test_a_pipelines_name_is_the_name_of_what_has_none(
    driver: Driver, make: Make, event_recorder: EventRecorder
) -> None:
    """Events of a policy without a name carry the pipeline's; a policy's own name stands."""
    nameless = Retry(2, wait=0.0)
    script = Script(fail(), succeed())
    driver.outcomes(1, driver.decorate(make.pipeline(nameless, make.timeout(5.0), name="payments"), script))
    named = Retry(2, wait=0.0, name="mine")
    driver.outcomes(1, driver.decorate(make.pipeline(named, name="payments"), Script(fail(), succeed())))
    assert [event.name for event in event_recorder.events] == ["payments", "payments", "mine", "mine"]


def test_without_any_name_the_functions_own_is_told(
    driver: Driver, make: Make, event_recorder: EventRecorder
) -> None:
    """Events of a bare policy carry module and qualified name of the function, decorated or called through."""

    async def fetch() -> None:
        raise ConnectionError

    fn = driver.function(fetch)
    driver.outcomes(1, Retry(2, wait=0.0)(fn))
    driver.outcomes(1, functools.partial(Retry(2, wait=0.0).call, fn))
    assert {event.name for event in event_recorder.events} == {f"{__name__}.{fetch.__qualname__}"}
    assert len(event_recorder.events) == 4


# Source


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("parameters", ["a", "a, /, b=1, *c, d, **e", "_a", "*args, **kwargs"])
def test_the_source_is_python(driver: Driver, make: Make, stack: str, parameters: str) -> None:
    """`source()` is text that compiles, defines the function, and tells its signature where it can."""
    text = Pipeline(*STACKS[stack](make)).source(written(parameters, driver.mode))
    compile(text, "source", "exec")
    head = "async def call(" if driver.mode == "async" else "def call("
    assert head in text
    assert text.startswith("def _make(")
    assert max(map(len, text.splitlines())) < 200


def test_the_source_of_a_policy_needs_no_function(make: Make) -> None:
    """Without a function, the source for one argument is shown."""
    assert "def call(argument):" in make.retry().source()


def test_the_source_refuses_what_cannot_be_decorated(make: Make) -> None:
    """`source` of a generator function is a TypeError, as decorating it is."""
    with pytest.raises(TypeError, match="generator"):
        make.retry().source(generates)


def test_tracebacks_show_the_compiled_lines(driver: Driver, make: Make) -> None:
    """In a traceback the generated function stands between caller and function, with its source lines."""
    decorated = driver_stack(make)(driver.function(Script(fail(ValueError("told")))))
    [error] = driver.outcomes(1, decorated)
    linecache.checkcache()
    shown = "".join(traceback.format_exception(error))
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith("<holdfast")
    ]
    assert "_fn(" in (frames[-1].line or "")
    assert f'File "{frames[-1].filename}"' in shown
    assert shown.endswith("ValueError: told\n")


def test_the_traceback_does_not_grow_with_attempts(driver: Driver, make: Make) -> None:
    """The error of the last of a hundred attempts has the frames of one attempt, and no error before it."""
    lengths: list[Any] = []
    for attempts in (2, 100):
        [error] = driver.outcomes(1, driver.decorate(make.retry(attempts, wait=0.0), Script(fail())))
        lengths.append(len(traceback.extract_tb(error.__traceback__)))
        assert error.__context__ is None
    assert lengths[0] == lengths[1]


# Explanations


def wait(seconds: float, step: float = 0.0) -> Backoff:
    return Backoff.linear(seconds, step) if step else Backoff.fixed(seconds)


BOUNDED: dict[str, Callable[[], list[Policy]]] = {
    "attempts of a bounded call": lambda: [Retry(4, wait=wait(1.0)), Timeout(2.0)],
    "growing waits": lambda: [Retry(5, wait=wait(1.0, 2.0)), Timeout(3.0)],
    "exponential without jitter": lambda: [
        Retry(6, wait=Backoff(base=1.0, cap=4.0, jitter="none")),
        Timeout(1.0),
    ],
    "one attempt": lambda: [Retry(1), Timeout(2.0)],
    "no waits": lambda: [Retry(3, wait=Backoff.none()), Timeout(2.0)],
    "nested retries": lambda: [Retry(2, wait=wait(10.0)), Retry(3, wait=wait(1.0)), Timeout(2.0)],
    "a breaker that stays closed": lambda: [Retry(3, wait=wait(1.0)), CircuitBreaker("x"), Timeout(2.0)],
    "two timeouts": lambda: [Retry(3, wait=wait(1.0)), Timeout(5.0), Timeout(2.0)],
    "only a timeout": lambda: [Timeout(7.0)],
}
CUT: dict[str, Callable[[], list[Policy]]] = {
    "total timeout": lambda: [Timeout(8.0), Retry(5, wait=wait(1.0)), Timeout(2.0)],
    "deadline": lambda: [Retry(5, wait=wait(1.0), deadline=8.0), Timeout(2.0)],
    "a tight total timeout": lambda: [Timeout(1.0), Retry(5, wait=wait(1.0)), Timeout(2.0)],
}


def obedient(driver: Driver, calls: list[float]) -> Function:
    """Return a call that hangs for as long as its deadline lets it, as a good driver of a database does."""

    async def hangs() -> None:
        calls.append(driver.clock.monotonic())
        left = remaining()
        await driver.sleep(3600.0 if left is None else left)
        raise TimeoutError

    return driver.function(hangs)


@pytest.mark.parametrize("case", BOUNDED)
def test_the_explained_worst_case_is_what_happens(driver: Driver, case: str) -> None:
    """Attempts and seconds of the explanation are those of a dependency that always hangs, exactly."""
    policies, calls = BOUNDED[case](), list[float]()
    decorated = Pipeline(*policies)(obedient(driver, calls))
    told = explain(decorated)
    with pytest.raises(TimeoutError):
        driver.call(decorated)
    assert len(calls) == told.attempts
    assert driver.clock.elapsed == pytest.approx(told.duration)
    assert told.amplification == told.attempts
    assert told == Pipeline(*policies).explain()


@pytest.mark.parametrize("case", CUT)
def test_the_explained_bound_is_kept(driver: Driver, case: str) -> None:
    """Where a deadline cuts the attempts short, neither attempts nor seconds exceed the explanation."""
    calls = list[float]()
    decorated = Pipeline(*CUT[case]())(obedient(driver, calls))
    told = explain(decorated)
    with pytest.raises(TimeoutError):
        driver.call(decorated)
    assert told.duration == {"a tight total timeout": 1.0}.get(case, 8.0)
    assert driver.clock.elapsed <= told.duration
    assert len(calls) <= told.attempts == 5


class ThrottledError(Exception):
    """A server that says when to come back."""

    retry_after = 30.0


def test_a_servers_hint_stays_within_the_explained_duration(driver: Driver) -> None:
    """A hint that lengthens the waits does not make the explanation untrue."""
    pipeline = Pipeline(Retry(3, wait=wait(1.0), on=lambda error: THROTTLED), Timeout(2.0))
    script = Script(fail(ThrottledError, after=1.0))
    driver.outcomes(1, driver.decorate(pipeline, script))
    assert driver.clock.elapsed >= 60.0
    assert driver.clock.elapsed <= pipeline.explain().hinted_duration


UNBOUNDED: dict[str, tuple[Callable[[], list[Policy]], float, float]] = {
    "no timeout": (lambda: [Retry(3)], 3.0, math.inf),
    "no attempts": (lambda: [Retry(None), Timeout(1.0)], math.inf, math.inf),
    "no attempts, deadline": (lambda: [Retry(None, deadline=9.0)], math.inf, 9.0),
    "a wait of the user's": (lambda: [Retry(3, wait=lambda state: 1.0), Timeout(1.0)], 3.0, math.inf),
    "a stop of the user's": (lambda: [Retry(stop=lambda state: True), Timeout(1.0)], math.inf, math.inf),
    "only a breaker": (lambda: [CircuitBreaker("x")], 1.0, math.inf),
    "only a family": (lambda: [CircuitBreakers("x")], 1.0, math.inf),
}


@pytest.mark.parametrize("case", UNBOUNDED)
def test_what_has_no_bound_is_infinite(case: str) -> None:
    """Figures that nothing bounds are infinite, and None as JSON."""
    policies, attempts, duration = UNBOUNDED[case]
    told = Pipeline(*policies()).explain()
    assert (told.attempts, told.duration) == (attempts, duration)
    shown = told.as_dict()
    assert shown["duration"] == (None if duration == math.inf else duration)
    assert shown["attempts"] == (None if attempts == math.inf else attempts)


def warned(*policies: Policy) -> str:
    return "\n".join(Pipeline(*policies).explain().warnings)


def test_orders_that_hurt_are_warned_about(make: Make) -> None:
    """Each order that is known to hurt has its warning, which says what to do."""
    bounded = Timeout(1.0)
    assert "retry inside retry: up to 6 attempts" in warned(Retry(2, deadline=9.0), Retry(3), bounded)
    assert "circuit breaker outside a retry without a budget" in warned(make.breaker(), Retry(3), bounded)
    assert "circuit breaker outside" in warned(make.breakers(), Retry(3), bounded)
    assert "no timeout bounds an attempt" in warned(Retry(3))
    assert "no timeout bounds an attempt" in warned(Timeout(5.0), Retry(3))
    assert "deadline of 1 s is shorter than one attempt of 5 s" in warned(
        Retry(3, deadline=1.0), Timeout(5.0)
    )
    assert "retry without limit" in warned(Retry(None), bounded)
    assert "timeout around a circuit breaker" in warned(Retry(3), Timeout(1.0), make.breaker())


def test_the_recommended_order_has_no_warning(make: Make) -> None:
    """Total timeout, retry with a budget, breaker, attempt timeout: nothing to complain of."""
    policies = [Timeout(30.0), Retry(3, budget=make.budget()), make.breaker(), Timeout(2.0)]
    assert Pipeline(*policies).explain().warnings == ()
    assert warned(Retry(3), make.breaker(), Timeout(2.0)) == ""
    assert warned(make.breaker(), Retry(3, budget=make.budget()), Timeout(2.0)) == ""


def test_the_errors_that_can_come_out_are_told(make: Make) -> None:
    """A caller can read which errors of holdfast it has to expect."""
    assert Pipeline(Retry(3)).explain().errors == ("whatever the function raises",)
    told = Pipeline(make.retry(), make.breaker(), make.timeout(1.0)).explain().errors
    assert told == ("whatever the function raises", "CircuitOpenError", "TimeoutExceeded")


@pytest.mark.parametrize(
    "policy", [Retry(3), Retry(3, deadline=5.0), Timeout(5.0), CircuitBreaker("x")], ids=repr
)
def test_everything_that_holds_can_be_explained(driver: Driver, policy: Policy) -> None:
    """A policy, a pipeline of it and a function under it have one explanation."""
    decorated = driver.decorate(policy, Script(succeed()))
    assert explain(policy) == explain(Pipeline(policy)) == explain(decorated) == Pipeline(policy).explain()
    assert isinstance(explain(policy), Explanation)


def test_methods_can_be_explained() -> None:
    """A decorated method is explained as it is reached: on the class, on an object, static or of the class."""
    one = Derived(succeed())
    told = explain(Base.method)
    for method in (one.method, Derived.class_inside, Derived.static_outside, one.class_outside):
        assert explain(method) == told


@pytest.mark.parametrize("target", [len, Derived, 5, None, "retry", lambda: None], ids=str)
def test_what_has_no_policies_cannot_be_explained(target: object) -> None:
    """Explaining anything else is a TypeError that says what to give."""
    with pytest.raises(TypeError, match="give a decorated function, a policy or a pipeline"):
        explain(target)


def test_an_explanation_reads_as_text(make: Make) -> None:
    """`str()` tells policies, figures, errors and warnings, one a line."""
    text = str(Pipeline(Retry(4, wait=wait(1.0)), Timeout(2.0), Retry(2)).explain())
    assert "Retry(attempts=4" in text
    assert "at most 8 attempts" in text
    assert "can raise: whatever the function raises, TimeoutExceeded" in text
    assert "warning: retry inside retry: up to 8 attempts" in text
    assert str(Pipeline(Retry(None)).explain()).count("any number of attempts") >= 1


def test_every_event_of_a_stack_names_its_policy(
    driver: Driver, make: Make, event_recorder: EventRecorder
) -> None:
    """Policies of a stack can be told apart by the names in their events."""
    pipeline = make.pipeline(make.retry(), make.breaker(2), make.timeout(1.0))
    [error] = driver.outcomes(1, driver.decorate(pipeline, Script(fail())))
    assert isinstance(error, CircuitOpenError)
    events: tuple[Event, ...] = event_recorder.events
    assert [(type(event).__name__, event.name) for event in events] == [
        ("RetryScheduled", "caller"),
        ("CircuitOpened", "dependency"),
        ("RetryScheduled", "caller"),
        ("CallRejected", "dependency"),
        ("RetryGaveUp", "caller"),
    ]
