"""What the README tells people to run exists, and what it links to does too."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGES = [
    "README.md",
    "docs/ARCHITECTURE.md",
    "docs/traffic.md",
    "docs/policy.md",
    "docs/chaos.md",
    "docs/configuration.md",
    "docs/metrics.md",
]


def test_make_targets_in_the_readme_exist(root: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (root / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"(?:`|    )make ([a-z-]+)", (root / "README.md").read_text()))
    assert named
    assert named <= targets


def test_weir_commands_in_the_readme_exist(root: Path) -> None:
    text = (root / "README.md").read_text().split("## Go live on Kafka")
    named = re.findall(r"\.venv/bin/weir ((?:[a-z]+ )+)", text[0])
    assert named
    for words in {one.strip() for one in named}:
        told = subprocess.run(
            [sys.executable, "-m", "flows.cli", *words.split(), "--help"], capture_output=True, text=True, check=False
        )
        assert told.returncode == 0, f"weir {words}: {told.stderr}"


def test_modules_that_the_pages_run_exist(root: Path) -> None:
    named = {name for page in PAGES for name in re.findall(r"python -m ([a-z_.]+)", (root / page).read_text())}
    assert named
    for name in named:
        assert (root / (name.replace(".", "/") + ".py")).is_file(), name


@pytest.mark.parametrize("page", PAGES)
def test_links_and_paths_in_the_pages_lead_somewhere(root: Path, page: str) -> None:
    text = (root / page).read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    for link in links:
        assert (root / page).parent.joinpath(link).exists(), f"{page} links to {link}"
    named = re.findall(r"`((?:flows|operators|schemas|state|deploy|load_tests|tests|docs)/[\w./-]+)`", text)
    for path in named:
        assert (root / path).exists(), f"{page} names {path}"
