"""Model artefacts by their content: what is stored under a sha256 is what was hashed, or it is refused.

    artefacts/<sha256>            the artefact
    cards/<sha256>.md, .html      what was written about it (operators/model_card.py)
    releases/<time>-<sha256>.json what was announced of it, signed: models.v1 is compacted, this is not

An artefact is never changed and never deleted by Weir: a decision names the one that made it, years later too.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

from schemas.errors import ReleaseError
from schemas.release_reasons import ARTEFACT_TOO_LARGE, NO_ARTEFACT, WRONG_HASH
from state.object_store import ObjectStore

MOST_BYTES: Final = 64 << 20
"""Default bound of an artefact. A linear model has some 100 KB, a forest some MB; larger stalls who loads it, and a
process that deceives us could otherwise fill our memory."""
_SHA256: Final = re.compile(r"[0-9a-f]{64}\Z")


class ArtefactStore:
    """Artefacts under one URL, file:///FOLDER or s3://BUCKET/PREFIX.

    Attributes:
        url: As given.
        most_bytes: Larger artefacts are neither stored nor read.
    """

    def __init__(self, url: str, most_bytes: int = MOST_BYTES) -> None:
        """Look at the URL; nothing is reached yet.

        Raises:
            BackupError: It names no folder and no bucket.
        """
        self.url = url
        self.most_bytes = most_bytes
        self._objects = ObjectStore(url)

    def put(self, artefact: bytes) -> str:
        """Store an artefact; returns its sha256 (hex).

        Raises:
            ReleaseError: It is too large.
            BackupError: The store refuses.
        """
        if len(artefact) > self.most_bytes:
            message = f"artefact of {len(artefact)} bytes; expected at most {self.most_bytes} ([models] most_mib)"
            raise ReleaseError(ARTEFACT_TOO_LARGE, message)
        sha256 = hashlib.sha256(artefact).hexdigest()
        self._objects.put_bytes(f"artefacts/{sha256}", artefact)
        return sha256

    def uri(self, sha256: str) -> str:
        """Where an artefact lies."""
        return f"{self.url.rstrip('/')}/artefacts/{sha256}"

    def get(self, sha256: str) -> bytes:
        """The artefact, and it is the one.

        Raises:
            ReleaseError: There is none of this hash, it is too large, or its content is another.
            BackupError: The store refuses.
        """
        if not _SHA256.match(sha256):
            message = f"expected 64 hexadecimal digits, found {sha256[:80]!r}"
            raise ReleaseError(WRONG_HASH, message)
        name = f"artefacts/{sha256}"
        size = self._objects.sizes("artefacts").get(name)
        if size is None:
            message = f"{self.uri(sha256)}: there is no such artefact; is [models] artefacts where learn writes?"
            raise ReleaseError(NO_ARTEFACT, message)
        if size > self.most_bytes:
            message = f"{self.uri(sha256)}: {size} bytes; expected at most {self.most_bytes} ([models] most_mib)"
            raise ReleaseError(ARTEFACT_TOO_LARGE, message)
        artefact = self._objects.read(name)
        if artefact is None or hashlib.sha256(artefact).hexdigest() != sha256:
            message = f"{self.uri(sha256)}: its content has another sha256; it was altered, or is half written"
            raise ReleaseError(WRONG_HASH, message)
        return artefact

    def put_release(self, created_at_us: int, sha256: str, record: bytes) -> None:
        """Keep what was announced.

        Raises:
            BackupError: The store refuses.
        """
        self._objects.put_bytes(f"releases/{created_at_us:020d}-{sha256 or 'none'}.json", record)

    def releases(self) -> list[bytes]:
        """All that was ever announced, the earliest first.

        Raises:
            BackupError: The store refuses.
        """
        found = [self._objects.read(name) for name in sorted(self._objects.sizes("releases"))]
        return [record for record in found if record is not None]

    def put_card(self, sha256: str, markdown: str, html: str) -> None:
        """Store what was written about an artefact.

        Raises:
            BackupError: The store refuses.
        """
        self._objects.put_bytes(f"cards/{sha256}.md", markdown.encode())
        self._objects.put_bytes(f"cards/{sha256}.html", html.encode())

    def card(self, sha256: str, form: str) -> str | None:
        """What was written about an artefact, `form` md or html; None when nothing was.

        Raises:
            BackupError: The store refuses.
        """
        found = self._objects.read(f"cards/{sha256}.{form}")
        return None if found is None else found.decode()
