"""Artefacts are what their hash says, or refused."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from schemas.errors import BackupError, ReleaseError
from state.artefacts import ArtefactStore


def test_an_artefact_is_given_back_by_its_hash(tmp_path: Path) -> None:
    store = ArtefactStore(f"file://{tmp_path}")
    sha256 = store.put(b"model")
    assert sha256 == hashlib.sha256(b"model").hexdigest()
    assert store.get(sha256) == b"model"
    assert store.uri(sha256) == f"file://{tmp_path}/artefacts/{sha256}"


def test_an_altered_artefact_is_refused(tmp_path: Path) -> None:
    store = ArtefactStore(f"file://{tmp_path}")
    sha256 = store.put(b"model")
    (tmp_path / "artefacts" / sha256).write_bytes(b"madel")
    with pytest.raises(ReleaseError, match=r"WRONG_HASH.*altered"):
        store.get(sha256)


def test_a_large_artefact_is_neither_stored_nor_read(tmp_path: Path) -> None:
    store = ArtefactStore(f"file://{tmp_path}", most_bytes=10)
    with pytest.raises(ReleaseError, match=r"ARTEFACT_TOO_LARGE.*most_mib"):
        store.put(b"x" * 11)
    sha256 = ArtefactStore(f"file://{tmp_path}").put(b"x" * 11)
    with pytest.raises(ReleaseError, match="ARTEFACT_TOO_LARGE"):
        store.get(sha256)


def test_what_is_not_there_or_no_hash_is_told(tmp_path: Path) -> None:
    store = ArtefactStore(f"file://{tmp_path}")
    with pytest.raises(ReleaseError, match="NO_ARTEFACT"):
        store.get("0" * 64)
    with pytest.raises(ReleaseError, match="WRONG_HASH: expected 64 hexadecimal digits"):
        store.get("../../etc/passwd")


def test_cards_and_releases_are_kept_beside(tmp_path: Path) -> None:
    store = ArtefactStore(f"file://{tmp_path}")
    sha256 = store.put(b"model")
    assert store.card(sha256, "md") is None
    store.put_card(sha256, "# card", "<h1>card</h1>")
    assert (store.card(sha256, "md"), store.card(sha256, "html")) == ("# card", "<h1>card</h1>")
    store.put_release(2, sha256, b"second")
    store.put_release(1, sha256, b"first")
    assert store.releases() == [b"first", b"second"]


def test_another_scheme_is_refused() -> None:
    with pytest.raises(BackupError, match="expected file:///FOLDER or s3://BUCKET/PREFIX"):
        ArtefactStore("http://somewhere")
