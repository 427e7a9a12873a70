"""Runs × AWS: handlers from the request to the summary, targets, timer, the template; requests that are counted."""

import json
import os
import re
import subprocess
import sys
from base64 import b64encode
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from backend.tests.integration._moto import answer, client, hooked
from backend.tests.integration.orchestration._cloud import Cloud
from backend.tests.integration.orchestration._yard import Yard, order, request
from holdfast.infrastructure.store.blob import MemoryBlobStore
from holdfast.infrastructure.store.dynamodb import DynamoStateStore, create_table
from holdfast.services.jobs.graphs import Work, lambdas
from holdfast.services.jobs.graphs.aws import (
    WORK,
    CodeBuildTarget,
    LambdaTarget,
    SsmTarget,
    StepFunctionsTimer,
    ZipCode,
    pack_work,
    unpack_work,
)
from holdfast.testing.clock import VirtualClock

TEMPLATE = Path(__file__).parents[4] / "deploy" / "aws" / "template.yaml"
MOST_REQUESTS = 6
MOST_OF_AN_EVENT = 5


def on_lambda(name: str, *waits: str, **settings: Any) -> dict[str, Any]:
    return order(name, *waits, target="lambda", **{"timeout": 30, **settings})


def work(**changes: Any) -> Work:
    facts: dict[str, Any] = {
        "run": "run-1",
        "order": "a",
        "number": 1,
        "target": "aws",
        "timeout": 90.0,
        "archive": "runs/run-1/a/exec.zip",
        "started": "runs/run-1/0001/started",
        "result": "tmp/callbacks/runs/run-1/0001/result.json",
        "log": "runs/run-1/0001/output.log",
    }
    return Work(**{**facts, **changes})


def test_a_run_goes_through_every_handler(cloud: Cloud) -> None:
    """From the request over real subprocesses to the summary, driven by nothing but events."""
    cloud.store_code("code", {"say.sh": "echo $1 in $PLACE"})
    status, answered = cloud.post(
        request(
            on_lambda("a", commands=["sh say.sh a"], environment={"PLACE": "lambda"}),
            on_lambda("b", "a", commands=["exit 3"]),
            on_lambda("c", "a"),
            on_lambda("d", "b"),
            run_id="run-1",
        )
    )
    assert (status, answered["run_id"], answered["created"]) == (202, "run-1", True)
    assert cloud.carry()
    done = json.loads(cloud.blobs.get("run-1/done"))
    assert done["status"] == "failed"
    assert {name: one["state"] for name, one in done["orders"].items()} == {
        "a": "succeeded",
        "b": "failed",
        "c": "succeeded",
        "d": "failed",
    }
    assert cloud.blobs.get("runs/run-1/0001/output.log") == b"a in lambda\n"


def test_events_that_come_twice_start_nothing_twice(cloud: Cloud) -> None:
    """Of the bucket, of the queue, and of whoever posts."""
    cloud.store_code("code", {"x": ""})
    document = request(on_lambda("a", commands=["echo once"]), run_id="run-1")
    assert [cloud.post(document)[1]["created"] for _ in range(2)] == [True, False]
    trigger = "tmp/callbacks/runs/run-1/0000/result.json"
    assert cloud.tell(trigger, trigger) == ["run-1"]
    cloud.tell(trigger)
    [event] = cloud.queue.events
    assert [lambdas.worker(event)["started"] for _ in range(2)] == [True, False]
    cloud.carry()
    assert json.loads(cloud.blobs.get("run-1/done"))["counts"] == {"succeeded": 1}


@pytest.mark.parametrize("shape", ["eventbridge", "unknown run", "another tenant", "unknown order"])
def test_the_orchestrator_takes_what_is_its_own(cloud: Cloud, shape: str) -> None:
    """Events of EventBridge too; what is of no run of this tenant changes nothing, an unknown order leaves a note."""
    cloud.store_code("code", {"x": ""})
    cloud.post(request(on_lambda("a"), run_id="run-1"))
    key = "default/tmp/callbacks/runs/run-1/0000/result.json"
    keys: dict[str, tuple[str, list[str]]] = {
        "eventbridge": (key, ["run-1"]),
        "unknown run": (key.replace("run-1", "run-2"), []),
        "another tenant": (key.replace("default", "other"), []),
        "unknown order": (key.replace("0000", "0009"), ["run-1"]),
    }
    told, evaluated = keys[shape]
    assert lambdas.orchestrator({"detail": {"object": {"key": told}}}) == {"runs": evaluated}
    store = DynamoStateStore(cloud.table, client=client("dynamodb", cloud.environment["AWS_ENDPOINT_URL"]))
    notes = [one.state for one in store.events("run-1", kinds=["note"])]
    assert notes == (["ignored"] if shape == "unknown order" else [])


def test_bad_requests_are_answered_with_every_fault(cloud: Cloud) -> None:
    """400 with all faults, 405 for another method, and nothing is stored."""
    status, said = cloud.post(request(on_lambda("a", "nobody", timeout=0)))
    assert (status, len(said["faults"])) == (400, 2)
    assert cloud.post(request(on_lambda("a")), method="GET")[0] == 405
    assert list(cloud.blobs.keys()) == []


def test_a_webhook_in_base64_is_one_run(cloud: Cloud) -> None:
    """As a gateway hands it on; the id of the delivery makes it one run."""
    cloud.store_code("code", {"x": ""})
    event = {
        "httpMethod": "POST",
        "headers": {"X-GitHub-Delivery": "7"},
        "isBase64Encoded": True,
        "body": b64encode(json.dumps(request(on_lambda("a"))).encode()).decode(),
    }
    answers = [json.loads(lambdas.process_webhook(event)["body"]) for _ in range(2)]
    assert answers[0]["run_id"] == answers[1]["run_id"]
    assert [one["created"] for one in answers] == [True, False]


def test_each_start_is_watched_by_an_execution(cloud: Cloud) -> None:
    """One for the run and one for each order; its input is what watchdog_check takes, and twice does no harm."""
    cloud.store_code("code", {"x": ""})
    cloud.post(request(on_lambda("a", timeout=1), on_lambda("b"), run_id="run-1"))
    cloud.tell("tmp/callbacks/runs/run-1/0000/result.json")
    timers = cloud.timers()
    assert sorted(one["number"] for one in timers) == [0, 1, 2]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", one["at"]) for one in timers)
    [second] = [one for one in timers if one["number"] == 2]
    assert lambdas.watchdog_check(second) == {"verdict": "wait"}
    assert lambdas.watchdog_check({"run": "nobody", "number": 1})["verdict"] == "unknown"
    assert lambdas.watchdog_check({}) == {"runs": ["run-1"]}


def test_the_same_watch_is_one_execution(aws_address: str, cloud: Cloud) -> None:
    """Whoever dispatches again after a crash watches again."""
    timer = StepFunctionsTimer(cloud.machine, client=client("stepfunctions", aws_address))
    for _ in range(2):
        timer.watch("r" * 64, 3, 1_800_000_000.2)
    assert cloud.timers() == [{"run": "r" * 64, "number": 3, "at": "2027-01-15T08:00:01Z"}]


def test_a_full_function_is_asked_again(cloud: Cloud, virtual_clock: VirtualClock) -> None:
    """Throttled for as long as our retry lasts, it has no room; then it takes the order."""
    target = LambdaTarget("worker", client=client("lambda", cloud.queue.address))
    cloud.queue.full = True
    assert target.dispatch(work()) is False
    cloud.queue.full = False
    assert target.dispatch(work()) is True
    assert [unpack_work(one["work"]) for one in cloud.queue.events] == [work()]


def test_a_build_is_started_told_and_stopped(aws_address: str) -> None:
    """With the order in its environment and a timeout of its own."""
    builds = client("codebuild", aws_address)
    builds.create_project(
        name="orders",
        source={"type": "S3", "location": "bucket/source.zip"},
        artifacts={"type": "NO_ARTIFACTS"},
        environment={
            "type": "LINUX_CONTAINER",
            "image": "aws/codebuild/standard:7.0",
            "computeType": "BUILD_GENERAL1_SMALL",
        },
        serviceRole="arn:aws:iam::123456789012:role/service-role/build",
    )
    blobs = MemoryBlobStore()
    target = CodeBuildTarget("orders", blobs, client=builds)
    asked: list[dict[str, Any]] = []
    stopped: list[dict[str, Any]] = []

    def ask(params: dict[str, Any], **_: Any) -> None:
        asked.append(dict(params))

    def stop(params: dict[str, Any], **_: Any) -> None:
        stopped.append(dict(params))

    with hooked(builds, "provide-client-params.codebuild.StartBuild", ask):
        assert target.dispatch(work())
    assert [(one["name"], unpack_work(one["value"])) for one in asked[0]["environmentVariablesOverride"]] == [
        (WORK, work())
    ]
    assert asked[0]["timeoutInMinutesOverride"] == 5
    [build] = builds.list_builds_for_project(projectName="orders")["ids"]
    with hooked(builds, "provide-client-params.codebuild.StopBuild", stop):
        target.cancel(work())
        target.cancel(work(started="runs/run-1/0002/started"))
    assert stopped == [{"id": build}]


def test_a_command_is_sent_to_one_instance(aws_address: str) -> None:
    """Always the same for an order, with the order in its environment; its cancel names it."""
    ssm, blobs = client("ssm", aws_address), MemoryBlobStore()
    target = SsmTarget(["i-1", "i-2"], blobs, client=ssm)
    assert target.dispatch(work())
    assert target.dispatch(work())
    first, second = ssm.list_commands()["Commands"][:2]
    assert first["InstanceIds"] == second["InstanceIds"]
    [said] = first["Parameters"]["commands"]
    assert said == f"{WORK}={pack_work(work())} python3 -m holdfast.services.jobs.graphs.lambdas"
    cancelled: list[Any] = []

    def cancel(request: Any, **_: Any) -> Any:
        cancelled.append(json.loads(request.body))
        return answer(request, 200, b"{}")

    with hooked(ssm, "before-send.ssm.CancelCommand", cancel):
        target.cancel(work())
    assert cancelled[0]["CommandId"] in {first["CommandId"], second["CommandId"]}


def test_an_order_is_executed_where_a_build_runs_it(cloud: Cloud) -> None:
    """The program that a build or command runs takes the order from its environment and stores how it ended."""
    cloud.store_code("code", {"x": "found"})
    cloud.post(request(on_lambda("a", commands=["cat x"]), run_id="run-1"))
    cloud.tell("tmp/callbacks/runs/run-1/0000/result.json")
    [event] = cloud.queue.events
    program = subprocess.run(
        [sys.executable, "-m", "holdfast.services.jobs.graphs.lambdas"],
        env={**os.environ, WORK: event["work"]},
        check=False,
        capture_output=True,
        timeout=60,
    )
    assert program.returncode == 0, program.stderr
    assert cloud.blobs.get("runs/run-1/0001/output.log") == b"found"
    cloud.queue.events.clear()
    cloud.carry()
    assert json.loads(cloud.blobs.get("run-1/done"))["status"] == "succeeded"


def test_code_that_is_no_archive_is_refused(cloud: Cloud) -> None:
    """Missing, not an archive, leading elsewhere, or too large when unpacked: each is said."""
    cloud.blobs.put("code/odd.zip", b"text")
    cloud.store_code("away", {"../up": ""})
    cloud.store_code("large", {"x": "y" * 2000})
    code = ZipCode(cloud.blobs, most=1000)
    for location, fault in (
        ("none", "no object"),
        ("odd", "no zip"),
        ("away", "below its root"),
        ("large", "more than"),
    ):
        with pytest.raises(ValueError, match=fault):
            code.files(location)


LAYERS = [[f"{stage}.{one}" for one in range(5)] for stage in range(6)]
CHAIN = [[str(one)] for one in range(60)]


@pytest.mark.parametrize("stages", [LAYERS, CHAIN], ids=["layers", "chain"])
def test_an_order_costs_six_requests(
    aws_address: str, tmp_path: Path, virtual_clock: VirtualClock, stages: list[list[str]]
) -> None:
    """Of DynamoDB at most, from submission to summary, if each result is an event of its own; most events cost five."""
    table, told = f"counted-{len(stages)}", Counter[str]()
    create_table(table, client=client("dynamodb", aws_address))
    store = DynamoStateStore(table, client=client("dynamodb", aws_address), clock=virtual_clock, frugal=True)
    yard = Yard(store, MemoryBlobStore(), tmp_path, virtual_clock)
    waits = [[], *stages]
    orders = [order(name, *before) for before, names in zip(waits, stages, strict=False) for name in names]

    def tell(model: Any, **_: Any) -> None:
        told[model.name] += 1

    with hooked(client("dynamodb", aws_address), "before-call.dynamodb", tell):
        run = yard.runs.submit(request(*orders)).run_id
        yard.runs.evaluate(run)
        events: list[int] = []
        while not yard.blobs.exists(f"{run}/done"):
            before = told.total()
            name = yard.puppets.started[len(events)]
            number = 1 + [one["name"] for one in orders].index(name)
            yard.blobs.put(f"tmp/callbacks/runs/{run}/{number:04}/result.json", b'{"status": "succeeded"}')
            yard.runs.evaluate(run)
            events.append(told.total() - before)
    assert max(events[:-1]) <= MOST_OF_AN_EVENT
    assert told.total() / len(orders) <= MOST_REQUESTS, told


def test_the_template_agrees_with_the_code(aws_address: str) -> None:
    """Handlers, variables, and the keys of the table are those of the code."""
    decode: Any = pytest.importorskip("cfnlint.decode", reason="cfn-lint is not installed")
    template, faults = decode.decode(str(TEMPLATE))
    assert not faults
    resources = template["Resources"]
    functions = [one["Properties"] for one in resources.values() if one["Type"].endswith("::Function")]
    module = lambdas.__name__
    handlers = {one["Handler"].removeprefix(f"{module}.") for one in functions}
    assert handlers == {"process_webhook", "orchestrator", "watchdog_check", "worker"}
    assert all(callable(getattr(lambdas, name)) for name in handlers)
    assert set(template["Globals"]["Function"]["Environment"]["Variables"]) == set(lambdas.ENVIRONMENT)

    dynamodb = client("dynamodb", aws_address)
    create_table("as-made", client=dynamodb)
    made = dynamodb.describe_table(TableName="as-made")["Table"]
    table = resources["Jobs"]["Properties"]
    assert [dict(one) for one in table["KeySchema"]] == made["KeySchema"]
    assert [dict(one) for one in table["AttributeDefinitions"]] == made["AttributeDefinitions"]
    assert table["BillingMode"] == made["BillingModeSummary"]["BillingMode"]


def test_the_template_is_linted() -> None:
    """Without a word: neither errors nor warnings."""
    pytest.importorskip("cfnlint", reason="cfn-lint is not installed")
    lint = [sys.executable, "-c", "from cfnlint.runner import main; main()", str(TEMPLATE)]
    said = subprocess.run(lint, check=False, capture_output=True, text=True, timeout=120)
    assert (said.returncode, said.stdout) == (0, ""), said.stderr
