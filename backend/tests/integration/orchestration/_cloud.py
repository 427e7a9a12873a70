"""AWS around the handlers: moto, an HTTP server in the place of Lambda's queue, and whoever carries events."""

import io
import json
import zipfile
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from uuid import uuid4

from backend.tests.integration._moto import ACCOUNT, client
from backend.tests.integration.jobs._homes import new_bucket
from holdfast.infrastructure.store.dynamodb import create_table
from holdfast.infrastructure.store.s3 import S3BlobStore
from holdfast.services.jobs.graphs import lambdas

WAITS = {
    "StartAt": "Wait",
    "States": {"Wait": {"Type": "Wait", "TimestampPath": "$.at", "End": True}},
}


class Queue:
    """Lambda as `invoke` sees it: it takes events, or says that it is full."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.full = False
        queue = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["Content-Length"]))
                assert self.path.endswith("/invocations")
                if not queue.full:
                    queue.events.append(json.loads(data))
                self.send_response(429 if queue.full else 202)
                self.send_header("x-amzn-ErrorType", "TooManyRequestsException")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # its name there
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Cloud:
    """Everything that the template makes, at moto; events are carried when a test says so."""

    def __init__(self, address: str, queue: Queue) -> None:
        self.queue = queue
        queue.events.clear()
        queue.full = False
        self.table = f"cloud-{uuid4().hex}"
        create_table(self.table, client=client("dynamodb", address))
        bucket = f"bucket-{uuid4().hex}"
        new_bucket(address, bucket)
        self.blobs = S3BlobStore(bucket, client=client("s3", address))
        self.states = client("stepfunctions", address)
        machine = self.states.create_state_machine(
            name=f"timer-{uuid4().hex}",
            definition=json.dumps(WAITS),
            roleArn="arn:aws:iam::123456789012:role/timer",
        )
        self.machine: str = machine["stateMachineArn"]
        self.environment: Mapping[str, str] = {
            "HOLDFAST_TABLE": self.table,
            "HOLDFAST_BUCKET": bucket,
            "HOLDFAST_TIMER": self.machine,
            "HOLDFAST_WORKER": "worker",
            "AWS_ENDPOINT_URL": address,
            "AWS_ENDPOINT_URL_LAMBDA": self.queue.address,
            **ACCOUNT,
        }
        self._heard: set[str] = set()

    def store_code(self, location: str, files: Mapping[str, str]) -> None:
        """Store code as an archive."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        self.blobs.put(f"code/{location}.zip", buffer.getvalue())

    def post(self, document: Mapping[str, Any], method: str = "POST") -> tuple[int, dict[str, Any]]:
        """Send a request to the webhook; return status and answer."""
        event = {"requestContext": {"http": {"method": method}}, "body": json.dumps(document)}
        answer = lambdas.process_webhook(event)
        return answer["statusCode"], json.loads(answer["body"])

    def carry(self) -> list[str]:
        """Tell the orchestrator of each new object, and let the worker execute what is queued, until nothing moves."""
        evaluated: list[str] = []
        while True:
            new = [key for key in self.blobs.keys("tmp/callbacks/") if key not in self._heard]
            for key in new:
                self._heard.add(key)
                evaluated += self.tell(key)
            events, self.queue.events[:] = list(self.queue.events), []
            for event in events:
                lambdas.worker(event)
            if not (new or events):
                return evaluated

    def tell(self, *keys: str) -> list[str]:
        """Tell the orchestrator of objects, as S3 does; return the runs that it evaluated."""
        records = [{"s3": {"object": {"key": f"default/{key}"}}} for key in keys]
        found: list[str] = lambdas.orchestrator({"Records": records})["runs"]
        return found

    def timers(self) -> list[dict[str, Any]]:
        """Return the inputs of the executions that were started."""
        told = self.states.list_executions(stateMachineArn=self.machine)["executions"]
        return [
            json.loads(self.states.describe_execution(executionArn=one["executionArn"])["input"])
            for one in told
        ]
