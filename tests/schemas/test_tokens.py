from __future__ import annotations

import copy
import hmac
import pickle
import random
from pathlib import Path

import pytest

from schemas.errors import SecretError
from schemas.pan import find_pans
from schemas.tokens import TokenKeys

PAN = "4111111111111111"
SECRET = bytes(range(32))
OTHER = bytes(range(100, 132))


def keys() -> TokenKeys:
    return TokenKeys("k1", {"k1": SECRET}, {})


def test_card_keeps_its_identity_across_rotations_and_new_cards_get_the_same_everywhere() -> None:
    before = keys()
    once = before.rotated("k2")
    twice = once.rotated("k3", OTHER)
    reread = TokenKeys.from_toml(twice.to_toml(), "test")
    assert (before.active, once.active, twice.active, reread.active) == ("k1", "k2", "k3", "k3")
    for pan in (PAN, "378282246310005", "5555555555554444"):
        assert {k.tokenise(pan) for k in (before, once, twice, reread)} == {before.tokenise(pan)}
    assert {k.identity_check for k in (before, once, twice, reread)} == {before.identity_check}


def test_retired_key_can_be_deleted_and_cards_still_keep_their_identity() -> None:
    text = keys().rotated("k2").rotated("k3").to_toml()
    for retired in ("k1", "k2"):
        start = text.index(f'[keys."{retired}"]')
        end = text.index("[keys.", start + 1)
        text = text[:start] + text[end:]
        remaining = TokenKeys.from_toml(text, "test")
        assert retired not in remaining.key_ids
        assert remaining.tokenise(PAN) == keys().tokenise(PAN)
    assert remaining.key_ids == ("k3",)


def test_token_is_letters_only_and_pinned() -> None:
    token = keys().tokenise(PAN)
    identity = hmac.digest(SECRET, b"weir/card-identity/1", "sha256")
    digest = hmac.digest(identity, b"weir/card/1\x00" + PAN.encode(), "sha256").hex()
    letters = "".join("abcdefghijklmnop"[int(digit, 16)] for digit in digest[:32])
    assert token == (f"card_{letters}", "411111", "1111")
    assert letters == "hgemjjbafclbafdoefeehhgehmjjmfkm"  # another value would be another identity of every card kept
    assert not any(char.isdigit() for char in token.card_id)
    assert find_pans(token.card_id.encode()) == []


def test_cards_and_identities_do_not_collide() -> None:
    rng = random.Random(3)
    pans = {f"{rng.randrange(10**16):016d}" for _ in range(2_000)}
    for holder in (keys(), TokenKeys("k1", {"k1": OTHER}, {})):
        assert len({holder.tokenise(pan).card_id for pan in pans}) == len(pans)
    assert keys().tokenise(PAN).card_id != TokenKeys("k1", {"k1": OTHER}, {}).tokenise(PAN).card_id
    assert keys().identity_check != TokenKeys("k1", {"k1": OTHER}, {}).identity_check


def test_two_unrelated_keys_are_refused_because_cards_would_lose_their_identity() -> None:
    with pytest.raises(SecretError, match=r"keys 'k2' and 'k1' open different card identities.*rotated\(\)"):
        TokenKeys("k2", {"k1": SECRET, "k2": OTHER}, {})


def test_altered_seal_or_another_secret_is_refused() -> None:
    rotated = keys().rotated("k2", OTHER)
    sealed = rotated._sealed["k2"]
    for place in (0, 15, 16, 47, 48, 79):
        altered = sealed[:place] + bytes([sealed[place] ^ 1]) + sealed[place + 1 :]
        with pytest.raises(SecretError, match="identity of key 'k2' was not sealed under its secret, or was altered"):
            TokenKeys("k2", {"k2": OTHER}, {"k2": altered})
    for wrong in (b"", sealed[:-1], sealed + b"\x00"):
        with pytest.raises(SecretError, match="was not sealed under its secret"):
            TokenKeys("k2", {"k2": OTHER}, {"k2": wrong})
    with pytest.raises(SecretError, match="was not sealed under its secret"):
        TokenKeys("k2", {"k2": bytes(range(50, 82))}, {"k2": sealed})


def test_sealing_twice_under_the_same_secret_shows_nothing() -> None:
    one, two = keys().rotated("k2", OTHER), keys().rotated("k2", OTHER)
    assert one._sealed["k2"] != two._sealed["k2"]
    assert one._identity not in one._sealed["k2"]


def test_secrets_too_short_or_not_random_are_refused() -> None:
    with pytest.raises(SecretError, match="secret of key 'k1' has 31 bytes, expected at least 32"):
        TokenKeys("k1", {"k1": SECRET[:31]}, {})
    with pytest.raises(SecretError, match="secret of key 'k1' is not random"):
        TokenKeys("k1", {"k1": b"changeme" * 8}, {})
    with pytest.raises(SecretError, match="active = 'k9' names none of the keys listed: k1"):
        TokenKeys("k9", {"k1": SECRET}, {})
    with pytest.raises(SecretError, match="key 'k1' exists"):
        keys().rotated("k1")
    with pytest.raises(SecretError, match="has 5 bytes"):
        keys().rotated("k2", b"short")


def test_new_keys_are_random_and_survive_their_file(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    made = TokenKeys.new("2026-11")
    path.write_text(made.to_toml(), encoding="utf-8")
    assert TokenKeys.from_file(path).tokenise(PAN) == made.tokenise(PAN)
    assert TokenKeys.new("2026-11").tokenise(PAN) != made.tokenise(PAN)
    alone = TokenKeys("k", {"k": made._secrets["2026-11"]}, {})
    assert alone.tokenise(PAN) != made.tokenise(PAN)  # the secret without its seal opens nothing


def test_environment_gives_a_file_or_the_toml_itself_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(keys().to_toml(), encoding="utf-8")
    assert TokenKeys.from_environment({}) is None
    for environ in ({"WEIR_PAN_KEYS_FILE": str(path)}, {"WEIR_PAN_KEYS": keys().to_toml()}):
        found = TokenKeys.from_environment(environ)
        assert found is not None
        assert found.tokenise(PAN) == keys().tokenise(PAN)
    with pytest.raises(SecretError, match="WEIR_PAN_KEYS_FILE and WEIR_PAN_KEYS are both set"):
        TokenKeys.from_environment({"WEIR_PAN_KEYS_FILE": str(path), "WEIR_PAN_KEYS": "x"})
    with pytest.raises(SecretError, match=r"PAN key file cannot be read \(FileNotFoundError\)"):
        TokenKeys.from_environment({"WEIR_PAN_KEYS_FILE": str(tmp_path / "none.toml")})
    with pytest.raises(SecretError, match="WEIR_PAN_KEYS: expected active"):
        TokenKeys.from_environment({"WEIR_PAN_KEYS": ""})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('active = "k1"\nsecret = "hunter2hunter2', "not TOML"),
        ('active = "k1"', "expected active"),
        ('active = 1\n[keys.k1]\nsecret = ""', "expected active"),
        ('active = "k1"\nactiv = "k2"\n[keys.k1]\nsecret = ""', r"unknown: \['activ'\]"),
        ('active = "k1"\n[keys.k1]\nsecrets = "hunter2"', "must hold secret"),
        ('active = "k1"\n[keys.k1]\nsecret = "hunter2!"', "secret of key 'k1' is not base64"),
        ('active = "k1"\n[keys.k1]\nsecret = 5', "secret of key 'k1' must be a string of base64"),
        ('active = "k1"\n[keys]\nk1 = "hunter2"', "must hold secret"),
        ('active = "k1"\n[keys.k1]\nsecret = "aHVudGVyMg=="', "has 7 bytes"),
    ],
)
def test_file_with_anything_wrong_is_refused_without_telling_a_secret(text: str, message: str) -> None:
    with pytest.raises(SecretError, match=message) as caught:
        TokenKeys.from_toml(text, "keys.toml")
    assert "hunter2" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_keys_never_show_what_they_hold() -> None:
    holder = keys().rotated("k2", OTHER)
    assert repr(holder) == f"TokenKeys(active='k2', key_ids=('k1', 'k2'), identity_check='{holder.identity_check}')"
    for give_away in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="PAN keys are not pickled"):
            give_away(holder)
    with pytest.raises(SecretError, match="must be printable, without quotes"):
        keys().rotated('a"b').to_toml()
