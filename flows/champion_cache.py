"""The champion in use, kept in a folder beside the state: its record and its artefact.

champion.json       the record, signed as it was announced
<sha256>.model      the artefact
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from operators.releases import Release, checked
from schemas.errors import ContractError
from schemas.signing import SigningKeys
from state.artefacts import ALTERED, ArtefactStore

RECORD: Final = "champion.json"


class ChampionCache:
    """Keeps one champion.

    Attributes:
        folder: Where.
    """

    def __init__(self, folder: Path, keys: SigningKeys) -> None:
        """Prepare; the folder is made with the first champion.

        Args:
            folder: Where.
            keys: By which its record must be signed.
        """
        self.folder = folder
        self._keys = keys

    def keep(self, release: Release, artefact: bytes) -> None:
        """Keep this one in the place of the one before; whatever stops it, there is a whole one.

        Raises:
            OSError: The disk refuses.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"{release.sha256}.model"
        _write(self.folder / name, artefact)
        _write(self.folder / RECORD, json.dumps(dict(release.record)).encode())
        for other in self.folder.glob("*.model"):
            if other.name != name:
                other.unlink(missing_ok=True)

    def recall(self, refused: Callable[[str, str], None]) -> tuple[Release, bytes] | None:
        """The one kept, None when there is none that can be believed.

        Args:
            refused: Told (reason, sentence) when one is kept and must not be used.
        """
        try:
            record = checked(json.loads((self.folder / RECORD).read_bytes()))
            artefact = (self.folder / f"{record['sha256']}.model").read_bytes()
        except (OSError, ValueError, ContractError):
            return None
        fault = self._keys.fault(record)
        if fault is not None:
            refused("signature", f"{self.folder / RECORD}: {fault}")
            return None
        if ArtefactStore.sha256(artefact) != record["sha256"]:
            refused(ALTERED, f"{self.folder}: the artefact kept there is not the one of its record")
            return None
        return Release(record, -1), artefact


def _write(path: Path, content: bytes) -> None:
    new = path.with_suffix(f".{os.getpid()}.new")
    with new.open("wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    new.rename(path)
