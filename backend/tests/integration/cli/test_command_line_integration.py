"""The `holdfast` command: what it prints, for people and for programs, and how it ends."""

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from backend.tests.integration.cli.conftest import Said, Served

READING = "a-secret-for-reading-0001"
OPERATING = "a-secret-for-operating-0001"
ROOT = Path(__file__).resolve().parents[4]
Run = Callable[..., Said]

GOOD = '{"retry_attempts": 4, "operation_overrides": {}}'
BAD = '{"retry_attempts": 40, "recovery_timeout": 1, "retry_atempts": 3}'


def test_explain_says_what_a_function_guarantees(run: Run) -> None:
    """`explain module:function` prints the explanation of its policies."""
    said = run("explain", "shop:price")
    assert (said.code, said.err) == (0, "")
    assert "at most 4 attempts, 3 s" in said.out


@pytest.mark.parametrize(("target", "attempts"), [("shop:price", 4), ("orders", 1), ("prices", 2)])
def test_explain_gives_json(run: Run, target: str, attempts: int) -> None:
    """With `--json` the explanation of a function, or of a name that `--app` defines, is its dict."""
    said = run("explain", target, "--app", "shop", "--json")
    assert (0, attempts) == (said.code, said.facts["attempts"])


def test_strict_finds_warnings_wanting(run: Run) -> None:
    """`explain --strict` ends with 1 where the explanation warns, 0 where it does not."""
    assert [run("explain", t, "--app", "shop", "--strict").code for t in ("shop:price", "prices")] == [1, 0]


def test_explain_draws(run: Run) -> None:
    """`explain --mermaid` prints a chart."""
    assert run("explain", "shop:price", "--mermaid").out.startswith("flowchart TD\n")


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("shop:plain", "has no policies to explain"),
        ("shop:absent", "shop has no 'absent'"),
        ("absent:price", "there is no module 'absent' here"),
        ("nobody", "no pipeline is called 'nobody'; known: 'orders', 'prices'"),
    ],
)
def test_a_wrong_target_is_wrong_use(run: Run, target: str, said: str) -> None:
    """A target that is not there ends with 2 and says what is."""
    found = run("explain", target, "--app", "shop")
    assert (found.code, found.out) == (2, "")
    assert said in found.err


def test_a_module_that_fails_to_import_says_why(run: Run, shop: Path) -> None:
    """A module that raises while it is imported ends with 2 and its error."""
    (shop / "broken.py").write_text("1 / 0", encoding="utf-8")
    found = run("explain", "broken:price")
    assert (
        found.code,
        found.err,
    ) == (2, "error: broken cannot be imported: ZeroDivisionError: division by zero (broken.py, line 1)\n")


def test_an_import_that_we_refuse_says_where_it_asked(run: Run, shop: Path) -> None:
    """Of an error that holdfast raises while a module is imported the line of that module is told, not holdfast's."""
    (shop / "wrong.py").write_text("from holdfast import timeout\n\ncall = timeout('2')\n", encoding="utf-8")
    assert run("explain", "wrong:call").err.endswith(" (wrong.py, line 3)\n")


@pytest.mark.parametrize(
    ("app", "said"),
    [
        ("absent", "there is no module 'absent' here"),
        ("broken", "broken cannot be imported: ZeroDivisionError: division by zero (broken.py, line 1)"),
        ("shop:absent", "serve: app = 'shop:absent' has no 'absent'; give module:name"),
    ],
)
def test_what_cannot_be_served_is_wrong_use(run: Run, shop: Path, app: str, said: str) -> None:
    """`serve` of a module that is not there or cannot be imported ends with 2 and says why."""
    (shop / "broken.py").write_text("1 / 0", encoding="utf-8")
    found = run("serve", app)
    assert (found.code, found.out) == (2, "")
    assert said in found.err


def test_a_port_in_use_is_wrong_use(run: Run, shop: Path) -> None:
    """`serve` at an address that somebody has ends with 2, names it, and says what to give."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        found = run("serve", "--port", address.partition(":")[2])
    assert (found.code, found.out) == (2, "")
    assert found.err == (
        f"error: serve: address = {address!r} cannot be had: Address already in use; "
        "give an address of this machine, and a port that is free; 0 is any\n"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("lab run --seeds -1", "error: --seeds is '-1': Input should be greater than or equal to 1"),
        ("serve --port many", "error: --port is 'many': Input should be a valid integer"),
        (
            "jobs run orders.csv app:ship --rate fast",
            "error: --rate: 'fast' is no rate: write for example 20/s",
        ),
        ("jobs run orders.csv app:ship --concurency 3", "--concurency (Possible options: --concurrency)"),
        ("explain", "error: Missing argument 'target'"),
    ],
)
def test_a_wrong_option_is_named(run: Run, arguments: str, said: str) -> None:
    """What is wrong with an option names it, its value and what it may be; a misspelt one, what was meant."""
    found = run(*arguments.split())
    assert (found.code, found.out) == (2, "")
    assert said in found.err


def test_a_group_without_a_command_shows_its_help(run: Run) -> None:
    """`holdfast config` alone prints its help, which is no error message, and ends with 2."""
    found = run("config")
    assert found.code == 2
    assert found.err.startswith("Usage: holdfast config [OPTIONS] COMMAND")


def test_presets_are_listed(run: Run) -> None:
    """`presets` lists presets, strategies and templates; as JSON, with their numbers."""
    assert re.search(r"production +5 +10 +120 +conservative", run("presets").out)
    facts = run("presets", "--json").facts
    assert sorted(facts) == ["presets", "strategies", "templates"]
    assert facts["presets"]["production"]["attempts"] == 5


@pytest.mark.parametrize("name", ["production", "critical", "low_latency"])
def test_one_preset_is_shown(run: Run, name: str) -> None:
    """`presets NAME` shows a preset, a strategy or a template."""
    assert name == run("presets", name, "--json").facts["name"]
    assert run("presets", name).out.startswith(name)


def test_an_unknown_preset_is_wrong_use(run: Run) -> None:
    """A name that no preset has ends with 2 and the names there are."""
    said = run("presets", "prod")
    assert said.code == 2
    assert "'prod' is no preset, strategy or template: aggressive, balanced" in said.err


def test_a_preset_is_recommended(run: Run) -> None:
    """`presets --recommend` says which preset suits an environment, and how sure that is."""
    assert run("presets", "--recommend", "staging").out.startswith("production (90.0 % sure)")
    assert run("presets", "--recommend", "kitchen", "--json").facts["confidence"] == 0.4


def test_a_good_configuration_is_fine(run: Run, shop: Path) -> None:
    """`config validate` ends with 0 for a configuration without faults, JSON or TOML."""
    (shop / "good.json").write_text(GOOD, encoding="utf-8")
    (shop / "good.toml").write_text("retry_attempts = 4", encoding="utf-8")
    assert [run("config", "validate", name).code for name in ("good.json", "good.toml")] == [0, 0]


def test_every_fault_of_a_configuration_is_told(run: Run, shop: Path) -> None:
    """`config validate` ends with 1 and tells every fault at once."""
    (shop / "bad.json").write_text(BAD, encoding="utf-8")
    said = run("config", "validate", "bad.json")
    assert said.code == 1
    assert sorted(line.split()[1] for line in said.out.splitlines() if line.startswith("error: ")) == [
        "recovery_timeout",
        "retry_atempts",
        "retry_attempts",
    ]
    assert len(run("config", "validate", "bad.json", "--json").facts["faults"]) == 3


def test_a_file_is_checked_as_the_service_reads_it(run: Run, shop: Path) -> None:
    """`config validate` knows what a file may say besides, `preset` and `enabled`, and how long it may be."""
    (shop / "good.toml").write_text(
        'preset = "production"\nenabled = true\nretry_attempts = 4', encoding="utf-8"
    )
    (shop / "long.json").write_text(GOOD + " " * 5000, encoding="utf-8")
    (shop / "bad.toml").write_text('preset = "prodution"\nenabled = "no"', encoding="utf-8")
    assert [run("config", "validate", name).code for name in ("good.toml", "long.json")] == [0, 0]
    enabled, preset = run("config", "validate", "bad.toml").out.splitlines()
    assert enabled == "error: enabled = 'no' is no switch; give true or false"
    assert preset.startswith(
        "error: preset = 'prodution' is no preset; give one of simple, development, production"
    )


def test_a_fault_names_the_value_and_what_is_allowed(run: Run, shop: Path) -> None:
    """A fault or a warning of `config validate` is one sentence: the field, its value, and what to give instead."""
    (shop / "bad.json").write_text('{"retry_attempts": 40}', encoding="utf-8")
    said = run("config", "validate", "bad.json").out.splitlines()[0]
    assert (
        said == "error: retry_attempts = 40 is out of range; give a whole number from 1 to 10, for example 10"
    )


def test_what_cannot_be_read_is_wrong_use(run: Run) -> None:
    """A file that is not there ends with 2."""
    said = run("config", "validate", "absent.json")
    assert (said.code, said.err) == (2, "error: absent.json cannot be read: No such file or directory\n")


def test_broken_toml_is_found_wanting(run: Run, shop: Path) -> None:
    """A file that is no TOML ends with 1 and says where."""
    (shop / "bad.toml").write_text("retry_attempts = ", encoding="utf-8")
    said = run("config", "validate", "bad.toml")
    assert said.code == 1
    assert "bad.toml is no TOML: Invalid value (at end of document)" in said.err


def test_the_configuration_here_is_shown(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """`config show` shows what the environment gives an operation, and where each number comes from."""
    monkeypatch.setenv("RESILIENCE_PRESET", "production")
    assert run("config", "show", "--json").facts["preset"] == "production"
    facts = run("config", "show", "qa", "--json").facts
    assert (facts["strategy"], facts["attempts"]) == ("critical", 7)


def test_a_benchmark_measures_a_targets_policies(run: Run) -> None:
    """`bench` measures what policies of a target's kinds cost, sync and async."""
    facts = run("bench", "shop:price", "--json").facts
    assert (
        facts["policies"],
        [one["mode"] for one in facts["results"]],
    ) == (["Timeout", "Retry"], ["sync", "async"])
    assert all(one["added_ns"] > 0 for one in facts["results"])


def test_a_service_that_does_not_answer_is_unreachable(run: Run) -> None:
    """Commands about a service end with 3 where none answers."""
    said = run("status", "--url", "http://127.0.0.1:9/internal/resilience")
    assert said.code == 3
    assert "does not answer" in said.err


@pytest.mark.parametrize(
    "arguments",
    [["bogus"], ["breakers", "orders", "explode"], ["config", "apply"], ["status", "--url", "nope"]],
)
def test_wrong_use_ends_with_2(run: Run, arguments: list[str]) -> None:
    """What the command does not understand ends with 2 and prints nothing on standard output."""
    said = run(*arguments)
    assert (said.code, said.out) == (2, "")
    assert said.err


def test_the_documented_commands_are_those_there_are(run: Run) -> None:
    """The table of commands in the docs names every command, and no other."""
    groups = {"config", "jobs", "lab", "runs"}
    table = (ROOT / "docs/reference/command-line.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `holdfast ([a-z]+(?: [a-z-]+)?)", table, re.MULTILINE))
    listed = {
        f"{group} {name}".strip()
        for group in ("", *groups)
        for name in re.findall(
            r"^ +([a-z-]+)  ", run(*group.split(), "--help").out.partition("Commands:")[2], re.MULTILINE
        )
    }
    assert documented == listed - groups


def test_the_version_is_shown(run: Run) -> None:
    """`--version` prints it."""
    assert re.fullmatch(r"holdfast \d+\.\d+\.\d+\S*\n", run("--version").out)


def test_a_served_api_is_operated(run: Run, served: Callable[..., Served]) -> None:
    """`status` finds an open circuit wanting; `breakers` isolates it, and resets it; then all is fine."""
    url = ("--url", served().url)
    status = run("status", *url)
    assert status.code == 1
    assert re.search(r"orders +open", status.out)
    assert [one["name"] for one in run("breakers", *url, "--json").facts] == ["orders"]

    said = run("breakers", "orders", "isolate", "--yes", "--reason", "maintenance", *url, "--json")
    assert said.facts["state"] == "isolated"
    assert run("breakers", "orders", "reset", "--yes", *url, "--json").facts["state"] == "closed"
    assert run("status", *url).code == 0
    assert run("breakers", "nobody", *url).code == 2


def test_a_served_configuration_is_changed(run: Run, served: Callable[..., Served], shop: Path) -> None:
    """`config apply` changes a service's preset or settings, and refuses a file with faults before it asks."""
    url = ("--url", served().url)
    assert (
        run("config", "apply", "--preset", "production", *url, "--json").facts["after"]["preset"]
        == "production"
    )
    (shop / "good.json").write_text('{"retry_attempts": 4}', encoding="utf-8")
    (shop / "bad.json").write_text(BAD, encoding="utf-8")
    assert [
        run("config", "apply", *what, *url).code for what in (["good.json"], ["bad.json"], ["--reload"])
    ] == [0, 1, 0]
    assert run("config", "show", *url, "--json").facts["preset"] == "production"


def test_a_key_decides_what_is_allowed(run: Run, served: Callable[..., Served]) -> None:
    """Without a key, or with one that may not, commands end with 4; with one that may, with 0."""
    url = ("--url", served(f"eve:read:{READING},ann:operate:{OPERATING}").url)
    reset = ("breakers", "orders", "reset", "--yes", *url)
    codes = [run(*reset, *key).code for key in ([], ["--key", READING], ["--key", OPERATING])]
    assert codes == [4, 4, 0]


def test_a_question_is_asked(
    served: Callable[..., Served], start: Callable[..., subprocess.Popen[str]]
) -> None:
    """Without `--yes` a change asks first; without an answer nothing is changed, and it ends with 1."""
    process = subprocess.run(
        [sys.executable, "-m", "holdfast", "breakers", "orders", "isolate", "--url", served().url],
        input="n\n",
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert process.returncode == 1
    assert "isolate orders of" in process.stderr


def test_serving_beyond_this_machine_needs_keys(run: Run) -> None:
    """`serve` on another address than loopback without keys ends with 2 and says how to make one."""
    said = run("serve", "--host", "0.0.0.0", "--port", "0")  # refused
    assert said.code == 2
    assert "set HOLDFAST_API_KEYS=name:role:secret, or listen on 127.0.0.1" in said.err


def test_serving_ends_at_an_interrupt(served: Callable[..., Served]) -> None:
    """Ctrl-C ends `serve` with 0, from its first line on."""
    process = served().process
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
