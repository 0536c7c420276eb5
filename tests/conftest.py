"""What all tests share: where the repository and the development data are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.kafka import kafka

__all__ = ["kafka"]

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """The development data, which is not part of the repository; a test that needs it skips where it is not."""
    path = Path(os.environ.get("WEIR_SHARED", ROOT.parent / "shared"))
    if not path.is_dir():
        pytest.skip(f"no development data at {path} (WEIR_SHARED names another place)")
    return path
