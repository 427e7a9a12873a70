"""AWS as moto imitates it: a process of its own, over HTTP; `python -m … ` serves until its input ends."""

import copy
import io
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

ACCOUNT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "eu-central-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}


@lru_cache
def client(service: str, address: str) -> Any:
    """Return boto3's client of a service, the same for all who ask; its own retries are off."""
    config: Any = import_module("botocore.config").Config(
        retries={"total_max_attempts": 1}, max_pool_connections=32
    )
    boto3: Any = import_module("boto3")
    return boto3.client(
        service, region_name=ACCOUNT["AWS_DEFAULT_REGION"], endpoint_url=address, config=config
    )


class Moto:
    """The process; `address` is where it answers."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "backend.tests.integration._moto"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=Path(__file__).parents[3],
            env={**os.environ, **ACCOUNT},
        )
        assert self._process.stdout is not None
        port = self._process.stdout.readline().strip()
        assert port, "moto does not start"
        self.address = f"http://127.0.0.1:{port}"

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


@contextmanager
def hooked(client: Any, event: str, hook: Callable[..., Any]) -> Generator[None]:
    """Let a function hear an event of a client of boto3: `before-send` may answer in AWS's place."""
    client.meta.events.register_first(event, hook)
    try:
        yield
    finally:
        client.meta.events.unregister(event, hook)


def answer(request: Any, status: int, body: bytes) -> Any:
    """Return what `before-send` returns so that nothing is sent, and this is the answer."""
    awsrequest: Any = import_module("botocore.awsrequest")
    return awsrequest.AWSResponse(request.url, status, {}, _Raw(body))


class _Raw(io.BytesIO):
    """A body as botocore reads it."""

    def stream(self, **_: Any) -> Iterator[bytes]:
        yield self.read()


def _end_with_input() -> None:
    sys.stdin.read()
    os._exit(0)


def _keep_only_what_changes() -> None:
    """Let a transaction remember the items that it touches, where moto copies the whole table for each of them."""
    models: Any = import_module("moto.dynamodb.models")
    typed: Any = import_module("moto.dynamodb.models.dynamo_type").DynamoType
    plain = models.DynamoDBBackend.transact_write_items
    touched: list[tuple[Any, Any]] = []

    def keys(item: dict[str, Any]) -> tuple[Any, Any]:
        (operation,) = item.values()
        key = operation.get("Key") or operation["Item"]
        return typed(key["p"]), typed(key["s"])

    def transact(self: Any, transact_items: list[dict[str, Any]]) -> None:
        touched[:] = map(keys, transact_items)
        plain(self, transact_items)

    def copied(table: Any, memo: dict[int, Any]) -> Any:
        made = copy.copy(table)
        made.items = copy.copy(table.items)
        for first, second in touched:
            rows = made.items[first] = dict(made.items.get(first, {}))
            if second in rows:
                rows[second] = copy.deepcopy(rows[second], memo)
        return made

    models.DynamoDBBackend.transact_write_items = transact
    models.Table.__deepcopy__ = copied


def main() -> None:
    """Serve one request after the other: moto's transactions know no threads."""
    moto: Any = import_module("moto.moto_server.werkzeug_app")
    from werkzeug.serving import make_server

    _keep_only_what_changes()
    app: Any = moto.DomainDispatcherApplication(moto.create_backend_app)
    server = make_server("127.0.0.1", 0, app, threaded=False, request_handler=moto.MotoRequestHandler)
    print(server.server_port, flush=True)
    threading.Thread(target=_end_with_input, daemon=True).start()
    server.serve_forever()


if __name__ == "__main__":
    main()
