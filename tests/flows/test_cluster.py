"""A cluster ends together, whichever of its members ends first."""

import sys

import pytest

from flows import cluster
from flows.stopping import StopSignals


@pytest.mark.timeout(60)
def test_a_death_behind_a_member_that_hangs_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_GRACE_S", 0.1)
    hangs = [sys.executable, "-c", "import time; time.sleep(600)"]
    dies = [sys.executable, "-c", "raise SystemExit(3)"]
    with StopSignals(60.0, "weir", None) as stops:
        assert cluster.Cluster().run([hangs, dies], stops) == 3
