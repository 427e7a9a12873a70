"""Scenarios × files: every fault at once, with its path."""

from pathlib import Path

import pytest

from holdfast import ConfigurationError
from holdfast.lab import Scenario, Server, Trouble, load_scenarios, scenarios

BAD = """
colour = 1
[[scenario]]
name = "one"
clients = 0
lod = 3
[scenario.server]
workers = "many"
[[scenario.trouble]]
kind = "plague"
start = 5
end = 3
[[scenario]]
name = "one"
[[scenario.trouble]]
kind = "stall"
"""


def test_a_file_is_read_as_written(short_file: Path) -> None:
    """What the file says is in the scenario, what it does not say has its default."""
    assert load_scenarios(short_file) == {
        "outage": Scenario(
            name="outage",
            says="everything fails at once for 20 s",
            duration=70,
            clients=4,
            load=20,
            troubles=(Trouble(kind="errors", start=15, end=35),),
        )
    }


def test_every_fault_of_a_file_is_told(tmp_path: Path) -> None:
    """One error lists all faults of all scenarios, each with its path."""
    path = tmp_path / "bad.toml"
    path.write_text(BAD, encoding="utf-8")
    with pytest.raises(ConfigurationError) as caught:
        load_scenarios(path)
    assert sorted(fault.path for fault in caught.value.faults) == [
        "colour",
        "scenario[0].clients",
        "scenario[0].lod",
        "scenario[0].server.workers",
        "scenario[0].trouble[0].end",
        "scenario[0].trouble[0].kind",
        "scenario[1].name",
        "scenario[1].trouble[0].end",
        "scenario[1].trouble[0].start",
    ]


@pytest.mark.parametrize(
    ("text", "path"), [("a = = 1", "x.toml"), ("", "scenario"), ("scenario = 3", "scenario")]
)
def test_what_is_no_file_of_scenarios_is_refused(tmp_path: Path, text: str, path: str) -> None:
    """Text that is no TOML, or holds no scenario, is one fault."""
    file = tmp_path / "x.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError) as caught:
        load_scenarios(file)
    assert [fault.path for fault in caught.value.faults] == [path]


def test_values_out_of_range_are_refused() -> None:
    """Objects made in code are checked as files are."""
    with pytest.raises(ConfigurationError, match="multiple of the shards"):
        Server(workers=10, shards=4)
    with pytest.raises(ConfigurationError, match="4 faults"):
        Trouble(kind="plague", start=-1, end=-2)


def test_the_lab_has_the_scenarios_of_its_documentation() -> None:
    """Names and order are fixed: results refer to them."""
    assert list(scenarios()) == [
        "healthy",
        "stall",
        "slow",
        "errors-1",
        "errors-10",
        "errors-30",
        "errors-100",
        "shard",
        "spike",
        "flapping",
        "grey-tail",
        "cold-restart",
        "hang",
        "cancel-storm",
        "noisy-tenant",
        "tiers",
    ]
