"""What a failed test has left running ends with it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.flows.live import STARTED


@pytest.fixture(autouse=True)
def no_live_process_is_left() -> Iterator[None]:
    yield
    while STARTED:
        process = STARTED.pop()
        if process.returncode is None:
            process.kill()
            process.communicate()
