"""Three hundred orders need a label each; the label service is in trouble, and the program is killed half-way.

The service is a process of its own and keeps its own book: it fails in every way, and it alone says at the end how many
labels it made for whom. The program reads orders.csv, previews, waits for approval, runs; it is killed with SIGKILL;
another process takes over. The report compares the file and the job with the service's book.
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from holdfast import Backoff, Pipeline, Retry, Timeout
from holdfast.infrastructure.store.state import StepState
from holdfast.services.jobs import Done, Jobs, NotDone, handler, open_jobs

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from holdfast.infrastructure.store.state import JobRecord
    from holdfast.services.jobs import Call, Progress

ORDERS = 300
HELD = "A150"  # half-way: its label is made, and the answer held back until the program is dead
ATTEMPT = 0.5  # seconds for one request
LANES = 8
LABELS = "LABELS"  # the variable that says where the service is


# The service: `python orders_demo.py service PORT`.


@dataclass
class Book:
    """What the service knows: requests and labels of each idempotency key, troubles that it made, money taken."""

    requests: Counter[str] = field(default_factory=Counter[str])
    labels: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    troubles: Counter[str] = field(default_factory=Counter[str])
    taken: Decimal = Decimal(0)
    holding: int = 0
    released: asyncio.Event = field(default_factory=asyncio.Event)

    def make(self, key: str, order: str, price: Decimal) -> None:
        """Make a label, unless this key has one."""
        made = self.labels.setdefault(key, [])
        if not made:
            made.append(f"TRK-{len(self.labels):04d}-{order}")
            self.taken += price

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        plain = {"requests": self.requests, "labels": self.labels, "troubles": self.troubles}
        return {**plain, "taken": str(self.taken), "holding": self.holding}


def trouble(order: str, nth: int) -> str:
    """Say what goes wrong with the n-th request of an order: something for every fourth order, at first."""
    if order == HELD:
        return "held"
    number = int(order[1:])
    kind = {1: "reset", 5: "hang", 9: "503", 13: "slow", 17: "lost"}.get(number % 20, "")
    twice = number % 60 in {1, 17}
    return kind if nth <= 1 + twice else ""


def price_of(weight: str) -> Decimal:
    """Return what a label costs."""
    return (Decimal("3.90") + Decimal("1.25") * Decimal(weight)).quantize(Decimal("0.01"))


async def serve(port: int) -> None:
    """Answer until killed."""
    book = Book()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while head := (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n"):
                pairs = (line.split(": ", 1) for line in head[1:] if line)
                headers = {name.lower(): value for name, value in pairs}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                if not await respond(book, head[0], headers.get("idempotency-key", ""), body, writer):
                    break
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", port) as server:
        await server.serve_forever()


async def respond(book: Book, line: str, key: str, body: bytes, writer: asyncio.StreamWriter) -> bool:
    """Answer one request, or not, and say whether the connection goes on."""
    method, path, _ = line.split()
    match method, path.strip("/").split("/"):
        case "POST", ["labels"]:
            return await make(book, key, json.loads(body), writer)
        case "GET", ["labels", name]:
            found = book.labels.get(name)
            write(writer, "200 OK" if found else "404 Not Found", {"tracking": found[0]} if found else {})
        case "GET", ["price", weight]:
            write(writer, "200 OK", {"price": str(price_of(weight))})
        case "GET", ["book"]:
            write(writer, "200 OK", book.as_dict())
        case _:
            book.released.set()
            write(writer, "200 OK", {})
    return True


async def make(book: Book, key: str, wanted: dict[str, str], writer: asyncio.StreamWriter) -> bool:
    """Make a label, with trouble if there is to be some."""
    order, price = wanted["order"], price_of(wanted["weight"])
    book.requests[key] += 1
    kind = trouble(order, book.requests[key])
    await asyncio.sleep(0.03)
    if kind == "held" and not book.released.is_set():
        return await hold(book, key, order, price)
    if kind in NAMES:
        book.troubles[kind] += 1
    if kind == "reset":
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()
        return False
    if kind == "hang":
        await asyncio.sleep(3 * ATTEMPT)
        return False
    if kind == "503":
        write(writer, "503 Service Unavailable", {}, "Retry-After: 1\r\n")
        return True
    book.make(key, order, price)
    if kind == "lost":
        return False
    if kind == "slow":
        await asyncio.sleep(0.6 * ATTEMPT)
    write(writer, "200 OK", {"tracking": book.labels[key][0], "price": str(price)})
    return True


async def hold(book: Book, key: str, order: str, price: Decimal) -> bool:
    """Make the label and keep the answer until told to let go: whoever asked is dead by then."""
    book.make(key, order, price)
    book.holding += 1
    try:
        await asyncio.wait_for(book.released.wait(), ATTEMPT)
    except TimeoutError:
        pass
    finally:
        book.holding -= 1
    return False


def write(writer: asyncio.StreamWriter, status: str, body: dict[str, Any], header: str = "") -> None:
    """Send a response."""
    data = json.dumps(body).encode()
    writer.write(f"HTTP/1.1 {status}\r\n{header}Content-Length: {len(data)}\r\n\r\n".encode() + data)


NAMES = {
    "reset": "connection reset before the work",
    "hang": "no answer, no work",
    "503": "503, Retry-After: 1",
    "slow": "slow answer",
    "lost": "label made, answer lost",
}


# The handler: what the program does with one order.


class Service:
    """The way to the service."""

    http: httpx.AsyncClient


@contextlib.asynccontextmanager
async def connected() -> AsyncGenerator[None]:
    """Connect this process's one event loop to the service."""
    async with httpx.AsyncClient(base_url=os.environ[LABELS], timeout=30) as Service.http:
        yield


POLICY = Pipeline(Retry(4, wait=Backoff(base=0.1, cap=0.5), hint_cap=0.2), Timeout(ATTEMPT))


async def quote(order: dict[str, str]) -> Decimal:
    """Ask what an order's label would cost."""
    response = await Service.http.get(f"/price/{order['weight']}")
    return Decimal(response.raise_for_status().json()["price"])


async def look_up(key: str, order: dict[str, str]) -> Done | NotDone:
    """After a crash: ask the service whether it made the label of this key."""
    response = await Service.http.get(f"/labels/{key}")
    if response.status_code == 404:
        return NotDone()
    tracking = response.raise_for_status().json()["tracking"]
    return Done({"tracking": tracking, "price": price_of(order["weight"])})


@handler("label", policy=POLICY, estimate=quote, reconcile=look_up)
async def label(order: dict[str, str], call: Call) -> dict[str, Any]:
    """Have a label made."""
    response = await Service.http.post(
        "/labels", json=order, headers={"Idempotency-Key": call.idempotency_key}
    )
    made = response.raise_for_status().json()
    return {"tracking": made["tracking"], "price": Decimal(made["price"])}


# The program: `python orders_demo.py work STORE JOB` runs a job, or resumes one that was killed.


async def work(store: str, job: str) -> None:
    """Do what is left of a job."""
    with open_jobs(store, [label]) as jobs:
        async with connected():
            if any(one.job.id == job for one in jobs.interrupted()):
                await jobs.aresume(job, concurrency=LANES)
            else:
                await jobs.arun(job, concurrency=LANES)


# The demo.


@dataclass
class Story:
    """What the demo saw: rows recorded when the program died, rows in doubt, what the service's book said then."""

    recorded: int = 0
    doubtful: list[str] = field(default_factory=list[str])
    then: dict[str, Any] = field(default_factory=dict[str, Any])
    took_over: float = 0.0

    @property
    def labelled(self) -> list[str]:
        """The keys in doubt that had a label when the program died."""
        return [key for key in self.doubtful if key in self.then["labels"]]


def main() -> int:
    """Play it, and return 1 if anything is not as promised."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="holdfast-demo-") as folder, label_service() as http:
        orders, store = Path(folder) / "orders.csv", str(Path(folder) / "jobs.db")
        write_orders(orders)
        with open_jobs(store, [label]) as jobs:
            job = submit(jobs, orders)
            asyncio.run(preview_and_approve(jobs, job))
            story = run_and_kill(jobs, job, store, http)
            take_over(jobs, job, store, story)
            failures = report(jobs, job, orders, story, http.get("/book").json())
    print(f"\n{time.monotonic() - began:.0f} seconds.")
    return 1 if failures else 0


@contextlib.contextmanager
def label_service() -> Generator[httpx.Client]:
    """Run the service, and give a client that asks for its book."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    os.environ[LABELS] = f"http://127.0.0.1:{port}"
    process = subprocess.Popen([sys.executable, __file__, "service", str(port)])
    try:
        with httpx.Client(base_url=os.environ[LABELS], timeout=30) as http:
            wait_until_it_answers(http)
            yield http
    finally:
        process.kill()
        process.wait()


def wait_until_it_answers(http: httpx.Client) -> None:
    """Wait for the service to come up."""
    for _ in range(300):
        with contextlib.suppress(httpx.TransportError):
            http.get("/book")
            return
        time.sleep(0.1)
    raise RuntimeError("the label service did not start within 30 s")


def write_orders(path: Path) -> None:
    """Write the file that somebody in the warehouse exported."""
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, delimiter=";")
        rows.writerow(["order", "street", "weight"])
        for number in range(1, ORDERS + 1):
            rows.writerow([f"A{number}", f"{number} Kelp Lane", f"{number % 9 + 1}.5"])


def submit(jobs: Jobs, orders: Path) -> JobRecord:
    """Store the job with all its rows."""
    print(
        f"{ORDERS} orders in orders.csv need a shipping label each. The label service is in trouble: every fourth\n"
        "order meets a reset, a hang, a 503, a slow answer, or an answer that is lost after the label was made.\n"
        f"Each order is a call of its own, {LANES} at once, up to 4 requests of {ATTEMPT} s for each.\n"
    )
    return jobs.submit(
        orders,
        label,
        key="order",
        max_attempts=5,
        backoff=Backoff(base=0.3, cap=1.0),
        write_back={"tracking": "tracking", "price": "price"},
    )


async def preview_and_approve(jobs: Jobs, job: JobRecord) -> None:
    """Ask what it would cost; nothing is called for real before somebody agrees to exactly these rows."""
    async with connected():
        preview = await jobs.apreview(job, rows=20)
    print(
        f"preview    20 of {preview.total} rows quoted: about {preview.estimate} in all, "
        f"between {preview.low} and {preview.high}"
    )
    approved = await asyncio.to_thread(jobs.approve, job, preview.digest)
    print(f"approved   these {approved.counts.total} rows, digest {preview.digest[:12]}…\n")


def start(store: str, job: JobRecord) -> subprocess.Popen[bytes]:
    """Start the program."""
    return subprocess.Popen([sys.executable, __file__, "work", store, job.id])


def run_and_kill(jobs: Jobs, job: JobRecord, store: str, http: httpx.Client) -> Story:
    """Start the program, and kill it when the service holds back the answer of an order that it has labelled."""
    program = start(store, job)
    screen = Screen()
    try:
        while not (book := http.get("/book").json())["holding"]:
            check_is_alive(program)
            screen.show(jobs.status(job))
            time.sleep(0.02)
    finally:
        program.send_signal(signal.SIGKILL)
        program.wait()
    screen.end(jobs.status(job))
    time.sleep(0.2)  # what was on its way to the service arrives
    book = http.get("/book").json()
    http.post("/release")
    [left] = jobs.interrupted()
    running = jobs.store.steps(job.id, states=[StepState.RUNNING])
    doubtful = [step.idempotency_key for step in running if step.begun]
    story = Story(recorded=left.job.counts.succeeded, doubtful=doubtful, then=book)
    print(
        f"\nKilled with SIGKILL. On disk: {story.recorded} labels are recorded, {left.held} rows were held by the dead "
        f"process;\nof these {left.ambiguous} calls had been announced and not recorded, so that they may have been "
        f"made or not. Choices:\n{', '.join(left.choices)}. We resume, in another process.\n"
    )
    return story


def check_is_alive(program: subprocess.Popen[bytes]) -> None:
    """Raise if the program ended before it was killed."""
    if program.poll() is not None:
        raise RuntimeError(f"the program ended by itself, with {program.returncode}")


def take_over(jobs: Jobs, job: JobRecord, store: str, story: Story) -> None:
    """Let another process do the rest."""
    began = time.monotonic()
    program = start(store, job)
    screen = Screen()
    while program.poll() is None:
        now = jobs.status(job)
        if not story.took_over and now.counts.succeeded > story.recorded:
            story.took_over = time.monotonic() - began
        screen.show(now)
        time.sleep(0.02)
    screen.end(jobs.status(job))


class Screen:
    """Progress: on a terminal one line that is written over and over, elsewhere a line each second."""

    def __init__(self) -> None:
        self._next = 0.0

    def show(self, now: Progress) -> None:
        """Show how far it is, now and then."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + (0.1 if sys.stdout.isatty() else 1.0)
        self._write(now, "\r" if sys.stdout.isatty() else "\n")

    def end(self, now: Progress) -> None:
        """Show how far it came."""
        self._write(now, "\n")

    def _write(self, now: Progress, end: str) -> None:
        bar = "#" * int(now.percent * 0.3)
        rate = f"{now.rate:3.0f}/s" if now.rate else "     "
        line = (
            f"{now.percent:5.1f} % [{bar:<30}] {now.counts.succeeded} of {now.counts.total} labelled {rate}"
        )
        print(
            f"{line}  {now.counts.running} rows taken, {now.counts.in_flight} calls under way  ",
            end=end,
            flush=True,
        )


def report(jobs: Jobs, job: JobRecord, orders: Path, story: Story, book: dict[str, Any]) -> int:
    """Compare what the program says with the service's own book; return how many numbers are wrong."""
    requests: dict[str, int] = book["requests"]
    print("\nWhat the service met with, by its own book:\n")
    print(f"  {sum(requests.values()):4} requests for labels, for {len(requests)} orders")
    for kind, name in NAMES.items():
        print(f"  {book['troubles'].get(kind, 0):4} of them: {name}")
    print(f"\nThe {len(story.doubtful)} calls in doubt; the service was asked about each:\n")
    had = story.labelled
    print(f"  {len(had):4} had been made, {HELD}'s among them: taken as done, not sent again")
    print(f"  {len(story.doubtful) - len(had):4} had not: sent now")
    print(f"  {story.took_over:4.1f} s after its start the new process had recorded its first label")
    print("\nThe proof:\n")
    wrong = 0
    for name, found, expected in checks(jobs, job, orders, story, book):
        wrong += found != expected
        verdict = "ok" if found == expected else f"WRONG, expected {expected}"
        print(f"  {name:<64}{found!s:>8}   {verdict}")
    print("\nIn short:\n")
    if wrong:
        print(f"  {wrong} numbers are wrong. This must not be: please report it.")
    else:
        print(
            f"  {ORDERS} orders, a service in trouble, a kill half-way: {ORDERS} labels, none lost, none twice."
        )
    return wrong


def checks(
    jobs: Jobs, job: JobRecord, orders: Path, story: Story, book: dict[str, Any]
) -> list[tuple[str, object, object]]:
    """Return what is promised: a name, what was found, what is expected."""
    labels: dict[str, list[str]] = book["labels"]
    tracking = {key.rpartition(":")[2]: made[0] for key, made in labels.items()}
    made = Counter(len(made) for made in labels.values())
    again = [key for key in story.labelled if book["requests"][key] > story.then["requests"][key]]
    counts, taken = jobs.job(job).counts, Decimal(book["taken"])
    with orders.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter=";"))
    right = [row for row in rows if row["tracking"] and row["tracking"] == tracking.get(row["order"])]
    return [
        ("orders with exactly one label, by the service's book", made[1], ORDERS),
        ("orders with none", ORDERS - len(labels), 0),
        ("orders with two or more", len(labels) - made[1], 0),
        (
            f"{HELD}, labelled when the program died: settled by asking",
            f"{job.id}:{HELD}" in story.labelled,
            True,
        ),
        ("calls in doubt that were sent again though they had been made", len(again), 0),
        ("rows of the job that succeeded", counts.succeeded, ORDERS),
        ("rows that failed, need review or are left", counts.total - counts.succeeded, 0),
        ("rows of orders.csv with the service's own tracking number", len(right), ORDERS),
        ("prices, summed: the job's results, and the service's book", jobs.total(job, "price"), taken),
        (
            "prices, summed: orders.csv, and the service's book",
            sum(Decimal(row["price"]) for row in rows),
            taken,
        ),
    ]


if __name__ == "__main__":
    if sys.argv[1:2] == ["service"]:
        asyncio.run(serve(int(sys.argv[2])))
    elif sys.argv[1:2] == ["work"]:
        asyncio.run(work(sys.argv[2], sys.argv[3]))
    else:
        sys.exit(main())
