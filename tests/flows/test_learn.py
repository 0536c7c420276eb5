"""What `weir learn` refuses before it connects to anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.learn import LEARNS, LearnOptions, run_learn
from flows.live_options import LiveOptions
from flows.profile import load_profile
from flows.source import Run
from schemas.errors import ConfigError
from tests.flows.traffic import LEARNING, write_profile

RIVAL = '[[challengers]]\nid = "rival"\nversion = "1"\n'
CANARY = '[canary]\nshare = 0.1\nsalt = "s"\n'
NOWHERE = "kafka://127.0.0.1:1/"


def _run(directory: Path, learning: str, learn: LearnOptions, outputs: tuple[str, ...] = LEARNS.outputs) -> None:
    profile = write_profile(directory / "profile")
    (profile / "learning.toml").write_text(learning)
    options = LiveOptions(
        state=directory / "state",
        inputs={name: f"{NOWHERE}{name}" for name in LEARNS.inputs},
        outputs={name: f"{NOWHERE}{name}" for name in outputs},
        sides=LEARNS,
        settle_s=1.0,
    )
    run_learn(load_profile(profile), options, learn, Run())


def test_a_canary_where_nothing_may_decide_without_a_person_is_refused(tmp_path: Path) -> None:
    learn = LearnOptions(1, 1, lambda _made: None, announces="challenger")
    with pytest.raises(ConfigError, match=r"declares \[canary\], and learn.announce is 'challenger', by which nothing"):
        _run(tmp_path, LEARNING + RIVAL + CANARY, learn)


def test_a_promotion_that_could_be_announced_nowhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere to announce who is promoted; expected streams\.models"):
        _run(tmp_path, f"{LEARNING}{RIVAL}{CANARY}[promotion]\n", LearnOptions(1, 1))


def test_drift_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"declares \[drift\] and no \[model\]"):
        _run(tmp_path, "[drift]\n", LearnOptions(1, 1))


def test_releases_without_somebody_who_signs_them_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected \[models\] artefacts and keys beside it"):
        _run(tmp_path, LEARNING, LearnOptions(1, 1))


def test_the_topic_of_releases_is_read_and_written_and_no_other_is(tmp_path: Path) -> None:
    options = LiveOptions(
        state=tmp_path,
        inputs={name: f"{NOWHERE}{name}" for name in LEARNS.inputs},
        outputs={name: f"{NOWHERE}{name}" for name in LEARNS.outputs},
        sides=LEARNS,
    )
    inputs, outputs = options.streams()
    assert inputs["models"] == outputs["models"]
    other = LiveOptions(
        state=tmp_path,
        inputs={name: f"{NOWHERE}{name}" for name in LEARNS.inputs},
        outputs={name: f"{NOWHERE}decisions" for name in LEARNS.outputs},
        sides=LEARNS,
    )
    with pytest.raises(ConfigError, match="expected a topic each"):
        other.streams()
