"""State written by earlier releases still opens: directories made by `tests.state.make_layout` and never changed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from operators.features import load_feature_set
from operators.record_formats import format_of
from operators.velocity import Velocity
from schemas.times import parse_rfc3339_us
from state.layout import LAYOUT
from state.store import StateHome, StateOptions
from tests.flows.traffic import write_profile
from tests.operators.windows_oracle import payment
from tests.state.make_layout import told

DATA = Path(__file__).parent / "data"
LAYOUTS = sorted(DATA.glob("layout-*"))


@pytest.fixture(params=LAYOUTS, ids=lambda path: path.name)
def checked_in(request: pytest.FixtureRequest, state_directory: Path) -> Path:
    copy = state_directory / "copy"
    shutil.copytree(request.param, copy)
    return copy


def test_there_is_one_of_the_present_layout() -> None:
    assert f"layout-{LAYOUT}" in [path.name for path in LAYOUTS]


def test_every_store_of_a_checked_in_directory_opens_with_its_records(checked_in: Path) -> None:
    expected = json.loads((checked_in / "expected.json").read_text())
    with StateHome(checked_in, StateOptions(), None, format_of) as home:
        for shard, steps in expected["stores"].items():
            for step, records in steps.items():
                store = home.open(shard, step, 1)
                found = told(store)
                if expected["layout"] == LAYOUT and format_of(step).layout == 1:
                    assert found == records, (shard, step)
                else:  # migrated: other bytes, checked by what they mean below
                    assert found["records"], (shard, step)


def test_windows_of_a_checked_in_directory_go_on_where_they_stood(checked_in: Path, tmp_path: Path) -> None:
    expected = json.loads((checked_in / "expected.json").read_text())
    shard = next(name for name in expected["stores"] if name.startswith("s00"))
    features = load_feature_set(write_profile(tmp_path / "profile"))
    (spec,) = (spec for spec in features.entities if spec.name == "account")
    velocity = Velocity(features, spec)
    assert len(expected["windows"]) > 5
    with StateHome(checked_in, StateOptions(), None, format_of) as home:
        store = home.open(shard, "account", 1)
        for account, window in expected["windows"].items():
            item = payment(features, parse_rfc3339_us(window["at"]), account=account, amount=2.5)
            velocity.on_batch(store, [item])
            assert item.values[features.slots["account.count_24h"]] == window["count"] + 1
            total = item.values[features.slots["account.sum_24h"]]
            assert total == pytest.approx(window["sum"] + 2.5, abs=1e-6)
