"""docs/features.md: its example loads, makes the features it lists, and no key or word of the file is left out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from operators.feature_parse import AGGREGATES, KEY_FIELDS, STREAM_KINDS
from operators.features import FACTS, load_feature_set
from schemas.errors import ProfileError

PAGE = Path(__file__).parents[2] / "docs" / "features.md"
TOP = ("id", "base_currency", "rates", "allowed_lateness", "seen_ttl", "fraud_rate_prior")
GEO = ("geo.city", "geo.anonymous", "geo.anonymous_lists")
ENTITY = ("key", "windows", "amount", "distinct", "fraud_rate")
SWITCHES = ("since_last", "travel", "reputation", "identity")


@pytest.fixture
def example(tmp_path: Path) -> Path:
    (found,) = re.findall(r"^```toml\n(.*?)^```", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    (tmp_path / "features.toml").write_text(found)
    for name in re.findall(r'"([\w-]+\.(?:csv|mmdb|txt))"', found):
        (tmp_path / name).write_text("")
    return tmp_path


def test_the_example_of_the_page_makes_the_features_that_the_page_lists(example: Path) -> None:
    (listed,) = re.findall(r"^```text\n(.*?)^```", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    made = [feature.name for feature in load_feature_set(example).features]
    assert made == [name for name, _, _ in FACTS] + listed.split()


def test_the_page_names_every_key_fact_field_aggregate_and_kind_of_event() -> None:
    text = PAGE.read_text()
    words = set(re.findall(r"`([^`\n]+)`", text))
    kinds = {kind for _, known in STREAM_KINDS.values() for kind in known}
    facts = {name for name, _, _ in FACTS}
    assert {*TOP, *GEO, *ENTITY, *AGGREGATES, *KEY_FIELDS, *STREAM_KINDS, *kinds, *facts} - words == set()
    assert {f"{name} = true" for name in SWITCHES} <= words
    assert {"[[entities.NAME.filtered]]", "[[entities.NAME.streams]]"} <= words


def test_the_keys_that_the_page_is_held_to_are_all_there_are(example: Path) -> None:
    """The parser names all keys when it meets an unknown one."""
    path = example / "features.toml"
    whole = path.read_text()
    for extra, known in (
        ("", (*TOP, "geo", "entities")),
        ("[geo]\n", tuple(name.removeprefix("geo.") for name in GEO)),
        ("[entities.card]\n", (*ENTITY, "filtered", "streams", *SWITCHES)),
    ):
        path.write_text(whole.replace(extra, f"{extra}unheard_of = 1\n", 1) if extra else f"unheard_of = 1\n{whole}")
        with pytest.raises(ProfileError, match="unheard_of") as told:
            load_feature_set(example)
        assert set(str(told.value).partition("known here: ")[2].split(", ")) == set(known)
