"""`weir policy check` as a command, and the completion that shells ask for."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CARDS = Path(__file__).parents[2] / "deploy" / "profiles" / "cards"
WEIR = Path(sys.executable).with_name("weir")


def _check(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", "policy", "check", *words],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize("file", [CARDS / "policy.toml", CARDS])
def test_the_default_profile_passes_and_is_told_in_a_line(file: Path) -> None:
    done = _check(str(file))
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert re.match(r"policy cards \S+ \([0-9a-f]{12}\) is in order: \d+ active, \d+ shadow, 0 off rules", line), line


def test_a_broken_rule_is_refused_by_file_rule_and_column(tmp_path: Path) -> None:
    broken = tmp_path / "policy.toml"
    text = (CARDS / "policy.toml").read_text()
    broken.write_text(
        f'{text}\n[[rules]]\nid = "broken"\ndescription = "It names what is not there."\n'
        'when = "amount > 5 and card.cuont_10m > 3"\naction = "review"\nreason = "VELOCITY_CARD"\n'
    )
    done = _check(str(broken), "--features", str(CARDS / "features.toml"))
    assert done.returncode == 2
    assert str(broken) in done.stderr
    assert "broken" in done.stderr
    assert "column 16" in done.stderr
    assert "card.cuont_10m" in done.stderr
    assert done.stdout == ""


def test_what_is_worth_a_second_look_is_told_and_keeps_nothing_from_being_used(tmp_path: Path) -> None:
    text = (CARDS / "policy.toml").read_text()
    (tmp_path / "policy.toml").write_text(text.replace('mode = "shadow"', 'mode = "off"', 1))
    (tmp_path / "features.toml").write_text(
        (CARDS / "features.toml").read_text().replace('rates = "rates.csv"', "")
        + '\n[entities.till]\nkey = ["merchant_id", "terminal_id"]\nsince_last = true\n'
    )
    done = _check(str(tmp_path))
    assert done.returncode == 0, done.stderr
    first, unused, warning, *_ = done.stdout.splitlines()
    assert ", 1 off rules" in first
    assert unused == "no rule names anything of: till"
    assert re.fullmatch(r"warning: rule '\S+' is off: it is checked, never evaluated", warning)


def test_a_policy_without_a_feature_set_beside_it_is_refused(tmp_path: Path) -> None:
    shutil.copy(CARDS / "policy.toml", tmp_path)
    done = _check(str(tmp_path / "policy.toml"))
    assert done.returncode == 2
    assert f"{tmp_path / 'features.toml'}: cannot be read" in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_is_shown_and_installed_into_the_home_of_the_user(tmp_path: Path, shell: str) -> None:
    environment = {**os.environ, "HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    shown = subprocess.run(
        [WEIR, "--show-completion", shell], capture_output=True, text=True, check=False, timeout=60, env=environment
    )
    assert shown.returncode == 0, shown.stderr
    assert "_WEIR_COMPLETE" in shown.stdout
    installed = subprocess.run(
        [WEIR, "--install-completion", shell], capture_output=True, text=True, check=False, timeout=60, env=environment
    )
    assert installed.returncode == 0, installed.stderr
    assert f"{shell} completion installed" in installed.stdout
    written = [path for path in tmp_path.rglob("*") if path.is_file() and "_WEIR_COMPLETE" in path.read_text()]
    assert written
    if shell == "bash":
        asked = {**environment, "_WEIR_COMPLETE": "complete_bash", "COMP_WORDS": "weir pol", "COMP_CWORD": "1"}
        told = subprocess.run([WEIR], capture_output=True, text=True, check=False, timeout=60, env=asked)
        assert told.stdout.split() == ["policy"]
