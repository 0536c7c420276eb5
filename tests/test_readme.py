"""What README and docs tell people to run exists, options included, and what they link to and name does too."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.main import get_command

from flows.cli import app

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]
PACKAGES = "flows|operators|schemas|state|deploy|load_tests|tests|docs"
COMMAND = r"(?:(?<=^    )|(?<=`))(?:\.venv/bin/)?weir ([^`\n]+)"
"""A command line: a line of an indented block, or between backticks."""


def commands(text: str) -> Iterator[list[str]]:
    """Words of each `weir` command line, lines continued by a backslash joined, behind a `supervise --` as well."""
    for line in re.findall(COMMAND, text.replace("\\\n", " "), flags=re.MULTILINE):
        words = re.split(r"  +|\s#", line)[0].split() if "    " in line else line.partition(" #")[0].split()
        if "--" in words:
            at = words.index("--")
            yield words[:at]
            if words[at + 1 : at + 2] == ["weir"]:
                yield words[at + 2 :]
        else:
            yield words


def fault(words: list[str]) -> str | None:
    """What of a command line does not exist."""
    command = get_command(app)
    options = {"--help", *(name for one in command.params for name in one.opts)}
    for word in (one.strip("[]") for one in words):
        if word.startswith("--"):
            if word.partition("=")[0].rstrip(".,;:)") not in options:
                return f"no option {word}"
        elif isinstance(command, typer.core.TyperGroup) and word in command.commands:
            command = command.commands[word]
            options = {"--help", *(name for one in command.params for name in (*one.opts, *one.secondary_opts))}
        elif isinstance(command, typer.core.TyperGroup) and re.fullmatch(r"[a-z][a-z-]*", word):
            return f"no command {word}"
    return None


@pytest.mark.parametrize("page", PAGES)
def test_weir_commands_in_the_pages_exist_with_their_options(page: str) -> None:
    for words in commands((ROOT / page).read_text()):
        assert fault(words) is None, f"{page}: weir {' '.join(words)}: {fault(words)}"


def test_a_command_or_option_that_is_not_there_is_found() -> None:
    text = (
        "    weir replay --profile P --evnts E    # a note --x\n"
        "`weir state bakup --state S` and `weir supervise -- weir nosuch`, `weir models list [--nosuch]`\n"
    )
    assert [fault(words) for words in commands(text)] == [
        "no option --evnts", "no command bakup", None, "no command nosuch", "no option --nosuch",
    ]  # fmt: skip


@pytest.mark.parametrize("page", PAGES)
def test_make_targets_in_the_pages_exist(page: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"(?:`|^    )make ([a-z-]+)", (ROOT / page).read_text(), flags=re.MULTILINE)) <= targets


@pytest.mark.parametrize("page", PAGES)
def test_modules_that_the_pages_run_exist(page: str) -> None:
    for name in re.findall(r"python -m ((?:load_tests|tests|flows)[a-z_.]*)", (ROOT / page).read_text()):
        assert (ROOT / (name.rstrip(".").replace(".", "/") + ".py")).is_file(), name


@pytest.mark.parametrize("page", PAGES)
def test_links_and_paths_in_the_pages_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    for link in links:
        assert (ROOT / page).parent.joinpath(link).exists(), f"{page} links to {link}"
    named = re.findall(rf"`((?:{PACKAGES})/[\w./-]+)`", text)
    named += re.findall(rf"(?<![\w/`.])((?:{PACKAGES})/[\w./-]+\.(?:md|py|toml|sh|yml|json))\b", text)
    for path in named:
        # A part in capitals stands for what varies: `schemas/released/VERSION`.
        known = "/".join(path.split("/")[: next((n for n, part in enumerate(path.split("/")) if part.isupper()), None)])
        assert (ROOT / known).exists(), f"{page} names {path}"
