"""Model artefacts in a folder or bucket, each under its sha256: what is there under a name cannot be anything else.

    artefacts/<sha256>                the bytes
    releases/<model id>/<sha256>.json the record announced of it, as JSON, for `weir models list` and rollback
    cards/<sha256>.md, .html          its model card

The name is the check: bytes that do not hash to it are refused, wherever they were altered. docs/adr/0020 says why.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

from schemas.errors import BackupError
from state.object_store import ObjectStore

_SHA256: Final = re.compile(r"[0-9a-f]{64}\Z")
MIB: Final = 1 << 20
MISSING: Final = "missing"
TOO_LARGE: Final = "too_large"
ALTERED: Final = "altered"
UNREACHABLE: Final = "unreachable"
UNREADABLE: Final = "unreadable"
FEATURE_SET: Final = "feature_set"
PROFILE: Final = "profile"
"""Reasons of an `ArtefactError`."""


class ArtefactError(BackupError):
    """An artefact cannot be used.

    Attributes:
        reason: One of the words above, for metrics.
    """

    def __init__(self, reason: str, told: str) -> None:
        super().__init__(told)
        self.reason = reason


class ArtefactStore:
    """Artefacts under one URL, none larger than `most_bytes`."""

    def __init__(self, url: str, most_bytes: int) -> None:
        """Look at the URL; nothing is reached yet.

        Raises:
            BackupError: It is neither file:///FOLDER nor s3://BUCKET/PREFIX.
        """
        self.url = url
        self._most_bytes = most_bytes
        self._store = ObjectStore(url)

    @staticmethod
    def sha256(artefact: bytes) -> str:
        """The name of an artefact."""
        return hashlib.sha256(artefact).hexdigest()

    def uri(self, sha256: str) -> str:
        """Where an artefact lies, for its record."""
        return f"{self.url.rstrip('/')}/artefacts/{sha256}"

    def put(self, artefact: bytes) -> str:
        """Store an artefact, unless it is there; returns its sha256.

        Raises:
            ArtefactError: It is too large.
            BackupError: The store refuses.
        """
        self._check_size(len(artefact))
        sha256 = hashlib.sha256(artefact).hexdigest()
        name = f"artefacts/{sha256}"
        if self._store.sizes("artefacts").get(name) != len(artefact):
            self._store.put_bytes(name, artefact)
        return sha256

    def get(self, sha256: str) -> bytes:
        """The artefact of that hash.

        Raises:
            ArtefactError: There is none, it is too large, its bytes are others, or the store cannot be reached.
        """
        if not _SHA256.match(sha256):
            raise ArtefactError(ALTERED, f"artefact {sha256[:80]!r}: expected 64 hex digits of a sha256")
        name = f"artefacts/{sha256}"
        try:
            size = self._store.sizes("artefacts").get(name)
            if size is None:
                raise ArtefactError(
                    MISSING,
                    f"artefact {sha256} is not in {self.url}; give the store that the learner writes to, or roll back",
                )
            self._check_size(size)
            artefact = self._store.read(name)
        except ArtefactError:
            raise
        except BackupError as error:
            raise ArtefactError(UNREACHABLE, str(error)) from error
        found = hashlib.sha256(artefact or b"").hexdigest()
        if found != sha256:
            raise ArtefactError(
                ALTERED,
                f"artefact {sha256} in {self.url} hashes to {found}: altered or cut off; announce an intact one",
            )
        return artefact or b""

    def _check_size(self, size: int) -> None:
        if size > self._most_bytes:
            raise ArtefactError(
                TOO_LARGE,
                f"an artefact of {size} bytes; allowed are {self._most_bytes}: declare a smaller model, or raise "
                "models.max_mib",
            )

    def put_text(self, name: str, text: str) -> None:
        """Store what stands beside artefacts.

        Raises:
            BackupError: The store refuses.
        """
        self._store.put_bytes(name, text.encode())

    def text(self, name: str) -> str | None:
        """What was stored under a name, None when nothing was.

        Raises:
            BackupError: The store refuses.
        """
        found = self._store.read(name)
        return None if found is None else found.decode("utf-8", "replace")

    def names(self, folder: str) -> list[str]:
        """Names of all that is stored below a folder.

        Raises:
            BackupError: The store refuses.
        """
        return sorted(self._store.sizes(folder))
