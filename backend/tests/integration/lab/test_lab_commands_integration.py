"""Command × lab: what `holdfast lab` prints and writes."""

import json
import re
from pathlib import Path

import pytest

from holdfast.cli.main import main


def test_run_says_what_happened(short_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A verdict in words, a table, and a page that asks the network for nothing."""
    page = tmp_path / "page.html"
    options = ["--scenario", "outage", "--file", str(short_file), "--seeds", "2", "--html", str(page)]
    assert main(["lab", "run", "--policy", "none", *options]) == 0
    out = capsys.readouterr().out
    assert "none in 'outage' (everything fails at once for 20 s): 0% of calls succeed during the fault" in out
    assert re.search(r"^\| amplification +\| 1 +\|$", out, re.MULTILINE)
    text = page.read_text(encoding="utf-8")
    assert text.count("<polyline") == 4
    assert "<td>amplification</td><td>1</td>" in text
    assert not re.search(r"https?:|src=|@import|url\(", text)


def test_compare_has_a_column_for_each(short_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each policy has its verdict and its column."""
    options = ["--scenario", "outage", "--file", str(short_file), "--seeds", "1"]
    assert main(["lab", "compare", "--policy", "none", "--policy", "holdfast", *options]) == 0
    assert re.search(r"^\| measure +\| none +\| holdfast +\|$", capsys.readouterr().out, re.MULTILINE)


def test_a_policy_of_ones_own(
    short_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`module:name` is a function that makes a policy, found in the current folder."""
    (tmp_path / "lab_shop.py").write_text(
        "from holdfast import Retry\ndef payments():\n    return Retry(attempts=2)\nprice = 3\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    options = ["--scenario", "outage", "--file", str(short_file), "--seeds", "1"]
    assert main(["lab", "run", "--policy", "lab_shop:payments", *options]) == 0
    assert "with 2.00 attempts each" in capsys.readouterr().out
    assert main(["lab", "run", "--policy", "lab_shop:price", *options]) == 2
    assert "is no policy" in capsys.readouterr().err


def test_an_operation_of_the_configuration(
    short_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A plain name is an operation of the configuration, if there is one."""
    options = ["--scenario", "outage", "--file", str(short_file), "--seeds", "1"]
    monkeypatch.delenv("RESILIENCE_PRESET", raising=False)
    assert main(["lab", "run", "--policy", "payments", *options]) == 2
    assert "there is no configuration" in capsys.readouterr().err
    monkeypatch.setenv("RESILIENCE_PRESET", "development")
    # A breaker that stays open for 30 s has not recovered when the scenario is over.
    assert main(["lab", "run", "--policy", "payments", *options]) in {0, 1}
    assert "payments in 'outage'" in capsys.readouterr().out


def test_scenarios_are_listed(short_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The lab's own by default, those of a file if one is given."""
    assert main(["lab", "scenarios"]) == 0
    assert "the server stands still for 30 s" in capsys.readouterr().out
    assert main(["lab", "scenarios", "--file", str(short_file)]) == 0
    assert "outage" in capsys.readouterr().out


def test_wrong_use_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Unknown scenarios, missing and faulty files are wrong use, and named."""
    bad = tmp_path / "bad.toml"
    bad.write_text('[[scenario]]\nname = ""\n', encoding="utf-8")
    assert main(["lab", "run", "--scenario", "plague"]) == 2
    assert main(["lab", "scenarios", "--file", str(tmp_path / "none.toml")]) == 2
    assert main(["lab", "scenarios", "--file", str(bad)]) == 2
    err = capsys.readouterr().err
    assert "no scenario is called 'plague'; known: healthy" in err
    assert "none.toml cannot be read" in err
    assert "scenario[0].name" in err


def test_a_function_that_makes_no_policy_is_wrong_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a function returns in place of a policy, raises or does not take is told before anything runs."""
    text = "def three():\n    return 3\ndef raises():\n    raise ValueError('no')\n"
    (tmp_path / "lab_yard.py").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert main(["lab", "run", "--policy", "lab_yard:three"]) == 2
    assert main(["lab", "compare", "--policy", "lab_yard:raises"]) == 2
    assert main(["lab", "tune", "--policy", "lab_yard:raises", "--set", "tries=1:2"]) == 2
    (tmp_path / "lab_quay.py").write_text("from holdfast import Retry as one\n", encoding="utf-8")
    assert main(["lab", "tune", "--policy", "lab_quay:one", "--set", "tries=1:2"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: lab_yard:three() made 3: have it return a policy",
        "error: lab_yard:raises() makes no policy: ValueError: no (lab_yard.py, line 4)",
        "error: lab_yard:raises() makes no policy: ValueError: no (lab_yard.py, line 4)",
        (
            "error: lab_quay:one(tries=1) makes no policy: TypeError: Retry.__init__() got an unexpected keyword "
            "argument 'tries'"
        ),
    ]


def test_programs_read_json(short_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With `--json` the facts are JSON; what never happens is null."""
    options = ["--scenario", "outage", "--file", str(short_file), "--seeds", "1", "--json"]
    assert main(["lab", "run", "--policy", "none", *options]) == 0
    facts = json.loads(capsys.readouterr().out)[0]
    assert facts["measures"]["amplification"] == {"mean": 1, "low": 1, "high": 1}
    assert facts["measures"]["opened"]["mean"] is None
    assert main(["lab", "scenarios", "--file", str(short_file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["troubles"][0]["kind"] == "errors"
