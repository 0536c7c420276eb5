"""Where backups are kept: a folder (file:///path) or a bucket (s3://bucket/prefix), as objects by name.

An object appears whole or not at all, on both, and survives a power loss once it is stored. Credentials, region and
endpoint of S3 come from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL, ...)
or from the machine's role, never from the URL. docs/adr/0010-backup.md says why obstore.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, S3Store

from schemas.errors import BackupError

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

_CHUNK: Final = 4 << 20
"""Bytes hashed or written at once: enough that the GIL changes hands seldom, little beside a process's memory."""
_RETRY: Final[RetryConfig] = {"max_retries": 4, "retry_timeout": timedelta(seconds=60)}


class ObjectStore:
    """Objects under one URL.

    Attributes:
        url: As given.
    """

    def __init__(self, url: str) -> None:
        """Look at the URL; nothing is reached yet.

        Raises:
            BackupError: Another scheme than file and s3, or no folder or bucket in it.
        """
        self.url = url
        self._folder: Path | None = None
        parts = urlsplit(url)
        try:
            if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path:
                self._folder = Path(unquote(parts.path))
                self._store: LocalStore | S3Store = LocalStore(self._folder, mkdir=True)
            elif parts.scheme == "s3" and parts.netloc:
                plain = os.environ.get("AWS_ALLOW_HTTP", "").lower() == "true"  # obstore forgets it beside options
                client: ClientConfig = {"timeout": "120s", "connect_timeout": "10s", "allow_http": plain}
                self._store = S3Store.from_url(url, client_options=client, retry_config=_RETRY)
            else:
                msg = f"backup {url!r}: expected file:///FOLDER or s3://BUCKET/PREFIX; give one of these"
                raise BackupError(msg)
        except (BaseError, OSError, ValueError) as error:
            raise _unusable(self.url, "be opened", "", error) from error

    def put_file(self, name: str, path: Path) -> None:
        """Store the file under `name`.

        Raises:
            BackupError: The target refuses.
        """
        try:
            obstore.put(self._store, name, path)
            self._settle(name)
        except (BaseError, OSError) as error:
            raise _unusable(self.url, "take", name, error) from error

    def put_bytes(self, name: str, content: bytes) -> None:
        """Store `content` under `name`.

        Raises:
            BackupError: The target refuses.
        """
        try:
            obstore.put(self._store, name, content)
            self._settle(name)
        except (BaseError, OSError) as error:
            raise _unusable(self.url, "take", name, error) from error

    def _settle(self, name: str) -> None:
        """In a folder: have the object, and the folders that name it, survive a power loss, as they do in a bucket."""
        if self._folder is None:
            return
        path = self._folder / name
        for one in (path, *path.parents):
            descriptor = os.open(one, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if one == self._folder:
                break

    def read(self, name: str) -> bytes | None:
        """The object, None when there is none.

        Raises:
            BackupError: The target refuses.
        """
        try:
            return bytes(obstore.get(self._store, name).bytes())
        except FileNotFoundError:
            return None
        except (BaseError, OSError) as error:
            raise _unusable(self.url, "give", name, error) from error

    def fetch(self, name: str, path: Path | None) -> tuple[int, str] | None:
        """Read an object piece by piece, into the file `path` if given.

        Returns:
            Its size and sha256 (hex), None when there is no such object.

        Raises:
            BackupError: The target refuses.
        """
        digest = hashlib.sha256()
        size = 0
        try:
            pieces = obstore.get(self._store, name).stream(min_chunk_size=_CHUNK)
            out = path.open("wb") if path is not None else None
            try:
                for piece in pieces:
                    view = memoryview(piece)
                    digest.update(view)
                    size += len(view)
                    if out is not None:
                        out.write(view)
            finally:
                if out is not None:
                    out.close()
        except FileNotFoundError:
            return None
        except (BaseError, OSError) as error:
            raise _unusable(self.url, "give", name, error) from error
        return size, digest.hexdigest()

    def sizes(self, prefix: str) -> dict[str, int]:
        """Size of every object whose name starts with the folder `prefix`.

        Raises:
            BackupError: The target refuses.
        """
        found: dict[str, int] = {}
        try:
            for page in obstore.list(self._store, prefix=prefix):
                found.update((meta["path"], meta["size"]) for meta in page)
        except FileNotFoundError:
            return {}
        except (BaseError, OSError) as error:
            raise _unusable(self.url, "list", prefix, error) from error
        return found

    def delete(self, names: Iterable[str]) -> None:
        """Remove objects.

        Raises:
            BackupError: The target refuses.
        """
        wanted = list(names)
        if not wanted:
            return
        try:
            obstore.delete(self._store, wanted)
        except FileNotFoundError:
            return  # another run removed it first
        except (BaseError, OSError) as error:
            raise _unusable(self.url, "delete", f"{len(wanted)} objects", error) from error


def sha256_of(path: Path) -> str:
    """sha256 (hex) of a file."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _unusable(url: str, action: str, name: str, error: Exception) -> BackupError:
    reason = str(error).split("\n", maxsplit=1)[0]  # behind it the server's answer and a debug dump
    msg = (
        f"backup {url}: cannot {action} {name}: {reason}; see that the folder or bucket exists, that there "
        "is room, and that the credentials in the environment allow it, then run it again"
    )
    return BackupError(msg)
