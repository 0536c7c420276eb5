from __future__ import annotations

import base64
import pickle
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import SecretError
from schemas.signing import SigningKeys

ONE, TWO = bytes(range(32)), bytes(range(32, 64))
RECORD = {"model_id": "m", "metrics": {"auc": 0.5}, "created_at": 7, "reason": None}


def _signed(keys: SigningKeys, **changes: Any) -> dict[str, Any]:
    record = {**RECORD, **changes}
    return {**record, "signature": keys.sign(record)}


def test_a_signature_holds_for_its_content_and_for_nothing_else() -> None:
    keys = SigningKeys("k1", {"k1": ONE})
    signed = _signed(keys)
    assert keys.fault(signed) is None
    assert keys.fault({**signed, "frozen": None}) is None  # an optional field that came later
    for changes in ({"model_id": "n"}, {"metrics": {"auc": 0.6}}, {"created_at": 8}, {"reason": "so"}):
        assert "not that of its content" in str(keys.fault({**signed, **changes}))
    assert "bears no signature" in str(keys.fault({**signed, "signature": ""}))
    assert "none of the form" in str(keys.fault({**signed, "signature": "md5:k1:00"}))


def test_keys_rotate_and_an_unlisted_or_other_secret_is_told() -> None:
    old, both, new = SigningKeys("a", {"a": ONE}), SigningKeys("b", {"a": ONE, "b": TWO}), SigningKeys("b", {"b": TWO})
    assert both.fault(_signed(old)) is None
    assert new.fault(_signed(both)) is None
    assert "not listed here ('a'; listed: b)" in str(new.fault(_signed(old)))
    assert "another secret" in str(SigningKeys("a", {"a": TWO}).fault(_signed(old)))


def test_a_key_file_is_read_strictly_and_shows_no_secret(tmp_path: Path) -> None:
    secret = base64.b64encode(ONE).decode()
    path = tmp_path / "keys.toml"
    path.write_text(f'active = "k"\n[keys.k]\nsecret = "{secret}"\n')
    keys = SigningKeys.from_file(path)
    assert keys.fault(_signed(SigningKeys("k", {"k": ONE}))) is None
    assert secret not in repr(keys)
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(keys)
    for text, told in (
        ("active = ", "not TOML"),
        (f'active = "x"\n[keys.k]\nsecret = "{secret}"', "names none of the keys"),
        ('active = "k"\n[keys.k]\nsecret = "c2hvcnQ="', "has 5 bytes"),
        ('active = "k"\n[keys.k]\nsecret = "%"', "not base64"),
        (f'active = "k"\n[keys.k]\nsecret = "{secret}"\nmore = 1', "nothing else"),
    ):
        with pytest.raises(SecretError, match=told) as raised:
            SigningKeys.from_toml(text, "here")
        assert secret not in str(raised.value)
    with pytest.raises(SecretError, match="cannot be read"):
        SigningKeys.from_file(tmp_path / "nothing")


def test_the_environment_gives_a_file_or_the_keys_and_never_both(tmp_path: Path) -> None:
    assert SigningKeys.from_environment({}) is None
    text = f'active = "k"\n[keys.k]\nsecret = "{base64.b64encode(ONE).decode()}"\n'
    found = SigningKeys.from_environment({"WEIR_MODEL_KEYS": text})
    assert found is not None
    assert found.key_ids == ("k",)
    with pytest.raises(SecretError, match="both set"):
        SigningKeys.from_environment({"WEIR_MODEL_KEYS": text, "WEIR_MODEL_KEYS_FILE": str(tmp_path)})
