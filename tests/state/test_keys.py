import base64
import pickle
from pathlib import Path

import pytest

from schemas.errors import SecretError
from state.keys import StateKeys

OLD = bytes(range(32))
NEW = bytes(range(100, 140))


def toml(active: str = "b") -> str:
    return (
        f'active = "{active}"\n[keys.a]\nsecret = "{base64.b64encode(OLD).decode()}"\n'
        f'[keys."b"]\nsecret = "{base64.b64encode(NEW).decode()}"\n'
    )


def test_keys_come_from_a_file_from_the_environment_or_are_not_wanted(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(toml())
    from_file = StateKeys.from_environment({"WEIR_STATE_KEYS_FILE": str(path)})
    from_text = StateKeys.from_environment({"WEIR_STATE_KEYS": toml()})
    assert from_file is not None
    assert from_text is not None
    assert (from_file.active, from_file.key_ids) == (from_text.active, from_text.key_ids) == ("b", ("a", "b"))
    assert from_file.check_value("a") == from_text.check_value("a") != from_file.check_value("b")
    assert StateKeys.from_environment({}) is None


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("active = 3", 'expected active = "ID" and tables'),
        ("not toml", "not TOML"),
        (toml("c"), "active = 'c' names none of the keys listed: a, b"),
        (toml() + 'extra = "x"', r"\[keys.'b'\] must hold secret"),
        (toml().replace("secret", "secrets", 1), r"\[keys.'a'\] must hold secret"),
        (toml().replace(base64.b64encode(OLD).decode(), "###"), "secret of key 'a' is not base64"),
        (toml().replace(base64.b64encode(OLD).decode(), "AAECAw=="), "at least 32 random bytes, found 4 bytes"),
        (toml().replace(base64.b64encode(OLD).decode(), base64.b64encode(bytes(40)).decode()), "1 of them distinct"),
    ],
)
def test_a_wrong_key_file_is_refused_and_no_secret_is_told(text: str, wrong: str) -> None:
    with pytest.raises(SecretError, match=wrong) as refusal:
        StateKeys.from_toml(text, "keys.toml")
    for secret in (OLD, NEW):
        assert base64.b64encode(secret).decode()[:12] not in str(refusal.value)


def test_both_variables_at_once_and_an_unreadable_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SecretError, match="are both set; keep one"):
        StateKeys.from_environment({"WEIR_STATE_KEYS": toml(), "WEIR_STATE_KEYS_FILE": "x"})
    with pytest.raises(SecretError, match="cannot be read"):
        StateKeys.from_environment({"WEIR_STATE_KEYS_FILE": str(tmp_path / "none")})


def test_keys_are_neither_shown_nor_pickled() -> None:
    keys = StateKeys.from_toml(toml(), "keys.toml")
    assert repr(keys) == "StateKeys(active='b', key_ids=('a', 'b'))"
    with pytest.raises(TypeError, match="state keys are not pickled"):
        pickle.dumps(keys)


def test_derived_keys_follow_rfc_5869() -> None:
    # Test case 3 of RFC 5869 (empty salt and info), first block.
    secret = bytes.fromhex("0b" * 22)
    keys = StateKeys("a", {"a": OLD})
    keys._secrets["a"] = secret
    assert keys.derive("a", b"").hex() == "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"
