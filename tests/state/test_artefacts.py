from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas.errors import BackupError
from state.artefacts import ArtefactError, ArtefactStore
from state.object_store import ObjectStore
from tests.state.s3_server import BUCKET, missing, s3_server


@pytest.fixture(scope="module")
def bucket() -> Iterator[dict[str, str]]:
    reason = missing()
    if reason:
        pytest.skip(reason)
    with s3_server() as environment:
        yield environment


def test_a_bucket_holds_artefacts_as_a_folder_does(
    bucket: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in bucket.items():
        monkeypatch.setenv(name, value)
    url = f"s3://{BUCKET}/{tmp_path.name}"
    store = ArtefactStore(url, 1_000)
    sha256 = store.put(b"model")
    store.put_text(f"releases/m/{sha256}.json", "{}")
    store.put_text(f"cards/{sha256}.md", "# card")
    assert store.uri(sha256) == f"{url}/artefacts/{sha256}"
    other = ArtefactStore(url, 1_000)  # of another process, on another machine
    assert other.put(b"model") == sha256
    assert other.get(sha256) == b"model"
    assert other.names("releases") == [f"releases/m/{sha256}.json"]
    assert (other.text(f"cards/{sha256}.md"), other.text("cards/none.md")) == ("# card", None)
    beneath = ObjectStore(url)
    for content, reason in ((b"modex", "altered"), (b"m" * 2_000, "too_large")):
        beneath.put_bytes(f"artefacts/{sha256}", content)
        with pytest.raises(ArtefactError) as raised:
            other.get(sha256)
        assert raised.value.reason == reason
    with pytest.raises(ArtefactError) as raised:
        other.get("0" * 64)
    assert raised.value.reason == "missing"
    with pytest.raises(ArtefactError) as raised:
        ArtefactStore(f"s3://no-such-bucket/{tmp_path.name}", 1_000).get(sha256)
    assert raised.value.reason == "unreachable"


def _store(directory: Path, most: int = 1_000) -> ArtefactStore:
    return ArtefactStore(f"file://{directory}", most)


def test_an_artefact_is_found_under_its_hash_by_whoever_has_the_store(tmp_path: Path) -> None:
    sha256 = _store(tmp_path).put(b"model")
    assert sha256 == hashlib.sha256(b"model").hexdigest()
    assert _store(tmp_path).put(b"model") == sha256
    assert _store(tmp_path).get(sha256) == b"model"
    assert _store(tmp_path).uri(sha256) == f"file://{tmp_path}/artefacts/{sha256}"


@pytest.mark.parametrize(
    ("content", "reason"), [(b"modex", "altered"), (b"mod", "altered"), (b"m" * 2_000, "too_large")]
)
def test_other_bytes_under_the_name_are_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    store = _store(tmp_path)
    sha256 = store.put(b"model")
    (tmp_path / "artefacts" / sha256).write_bytes(content)
    with pytest.raises(ArtefactError) as raised:
        store.get(sha256)
    assert raised.value.reason == reason


def test_what_is_missing_too_large_or_no_hash_is_told(tmp_path: Path) -> None:
    store = _store(tmp_path)
    with pytest.raises(ArtefactError, match="is not in") as raised:
        store.get("0" * 64)
    assert raised.value.reason == "missing"
    with pytest.raises(ArtefactError, match="expected 64 hex digits"):
        store.get("../../etc/passwd")
    with pytest.raises(ArtefactError, match=r"raise models\.max_mib"):
        store.put(b"m" * 1_001)
    with pytest.raises(BackupError, match="expected file"):
        ArtefactStore("ftp://there", 1)


def test_what_stands_beside_artefacts_is_listed(tmp_path: Path) -> None:
    store = _store(tmp_path)
    store.put_text("cards/a.md", "# card")
    assert store.text("cards/a.md") == "# card"
    assert store.text("cards/b.md") is None
    assert store.names("cards") == ["cards/a.md"]
