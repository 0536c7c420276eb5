"""A schema registry over HTTP, in the API that Confluent's and its relatives (Apicurio, Karapace, Redpanda) share."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlsplit

import urllib3

from schemas.errors import ConfigError, StreamError

if TYPE_CHECKING:
    from flows.config import WireSection

_JSON: Final = "application/vnd.schemaregistry.v1+json"
# Error codes of the API that mean "no such thing"; everything else under 500 is a refusal.
_NOT_FOUND: Final = 404
_BUSY: Final = 429
# How long an id that does not exist is not asked for again: a registry behind a replica may learn it a moment later;
# shorter, and a producer of nonsense ids turns into a load on the registry.
_UNKNOWN_FOR_S: Final = 30.0
# Unknown ids remembered; beyond it all are forgotten at once.
_UNKNOWN_KEPT: Final = 10_000


@dataclass(frozen=True, slots=True)
class RegistryConfig:
    """How a registry is reached.

    Attributes:
        url: http:// or https://, with the path before /subjects, /schemas (Apicurio: /apis/ccompat/v7).
        username: For basic authentication, with `password`.
        password: Kept out of the repr.
        token: For bearer authentication, instead.
        ca: File of the authorities that the registry's certificate is checked against; None: the system's.
        timeout_s: For one request. Shorter than a slow answer, and it is taken for down.
        attempts: Requests until a failure is told; between them pauses of `pause_s`, doubled each time.
        pause_s: First pause.
    """

    url: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    ca: str | None = None
    timeout_s: float = 5.0
    attempts: int = 4
    pause_s: float = 0.2

    def __post_init__(self) -> None:
        """Refuse what can be no registry."""
        parts = urlsplit(self.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            message = f"registry url: {_hidden(self.url)!r}: expected http://HOST[:PORT][/PATH] or https://"
            raise ConfigError(message)
        if parts.username or parts.password:
            message = "registry url: it holds a user or password; give them as username and password"
            raise ConfigError(message)
        if self.token is not None and self.username is not None:
            message = "registry: both a token and a username are set; expected one of them"
            raise ConfigError(message)
        if (self.username is None) != (self.password is None):
            message = "registry: username and password go together; one of them is missing"
            raise ConfigError(message)


class Registry:
    """Schemas by id, registration and compatibility; safe for several threads."""

    def __init__(self, config: RegistryConfig, sleep: Callable[[float], None] = time.sleep) -> None:
        """Nothing is asked yet."""
        self._config = config
        self._url = config.url.rstrip("/")
        self._sleep = sleep
        self._lock = threading.Lock()
        self._known: dict[int, Any] = {}
        self._unknown: dict[int, float] = {}
        headers = {"Accept": f"{_JSON}, application/json", "Content-Type": _JSON}
        if config.token is not None:
            headers["Authorization"] = f"Bearer {config.token}"
        elif config.username is not None:
            headers |= urllib3.make_headers(basic_auth=f"{config.username}:{config.password}")
        tls = {} if config.ca is None else {"ca_certs": config.ca}
        self._pool = urllib3.PoolManager(headers=headers, timeout=config.timeout_s, retries=False, **tls)  # type: ignore[arg-type]  # keywords of the connection

    def schema(self, schema_id: int) -> Any | None:
        """The schema behind an id, kept for good once known; None: the registry does not know it.

        Raises:
            StreamError: The registry is down or refuses; after all attempts.
        """
        with self._lock:
            if schema_id in self._known:
                return self._known[schema_id]
            if time.monotonic() < self._unknown.get(schema_id, 0.0):
                return None
        answer = self._ask("GET", f"/schemas/ids/{schema_id}", missing=True)
        if answer is None:
            with self._lock:
                if len(self._unknown) >= _UNKNOWN_KEPT:
                    self._unknown.clear()
                self._unknown[schema_id] = time.monotonic() + _UNKNOWN_FOR_S
            return None
        try:
            kind = answer.get("schemaType", "AVRO")
            schema = json.loads(answer["schema"]) if kind == "AVRO" else {"type": str(kind)}
        except (ValueError, KeyError, TypeError) as error:
            msg = f"schema {schema_id}"
            raise self._nonsense(msg) from error
        with self._lock:
            self._known[schema_id] = schema
        return schema

    def register(self, subject: str, schema: Any) -> int:
        """The id of a schema under a subject; registering what is there already changes nothing.

        Raises:
            ConfigError: The registry refuses it, as incompatible, say.
            StreamError: It is down.
        """
        answer = self._ask("POST", f"/subjects/{quote(subject, safe='')}/versions", {"schema": json.dumps(schema)})
        try:
            return int(answer["id"])
        except (KeyError, TypeError, ValueError) as error:
            msg = f"the registration of {subject}"
            raise self._nonsense(msg) from error

    def keep_backward(self, subject: str) -> None:
        """Have the registry refuse from now on what could not read a subject's latest schema; some ask for nothing.

        Raises:
            ConfigError: It refuses, for lack of a right, say.
            StreamError: It is down.
        """
        self._ask("PUT", f"/config/{quote(subject, safe='')}", {"compatibility": "BACKWARD"})

    def incompatible(self, subject: str, schema: Any) -> list[str]:
        """What the registry says against a schema as the next version of a subject; empty: nothing, or it is new there.

        Raises:
            ConfigError: It refuses the request.
            StreamError: It is down.
        """
        path = f"/compatibility/subjects/{quote(subject, safe='')}/versions/latest?verbose=true"
        answer = self._ask("POST", path, {"schema": json.dumps(schema)}, missing=True)
        if answer is None:
            return []
        if not isinstance(answer, dict) or not isinstance(answer.get("is_compatible"), bool):
            msg = f"the check of {subject}"
            raise self._nonsense(msg)
        return [] if answer["is_compatible"] else [str(one) for one in answer.get("messages") or ["incompatible"]]

    def _nonsense(self, what: str) -> StreamError:
        return StreamError(f"registry {self._url}: its answer on {what} is none of its API; check the URL's path")

    def _ask(self, method: str, path: str, body: Any = None, *, missing: bool = False) -> Any:
        """Ask until an answer comes or the attempts are used up; None: 404, where `missing` allows it."""
        pause = self._config.pause_s
        failure = ""
        for attempt in range(self._config.attempts):
            if attempt:
                self._sleep(pause)
                pause *= 2
            try:
                answer = self._pool.request(
                    method, self._url + path, body=None if body is None else json.dumps(body).encode()
                )
            except urllib3.exceptions.SSLError as error:
                message = f"registry {self._url}: TLS failed ({error.args[0]}); name its authority in `ca`"
                raise StreamError(message) from error
            except urllib3.exceptions.HTTPError as error:
                failure = type(error).__name__
                continue
            if answer.status >= 500 or answer.status == _BUSY:
                failure = f"status {answer.status}"
                continue
            if answer.status == _NOT_FOUND and missing:
                return None
            if answer.status in {401, 403}:
                message = f"registry {self._url}: refused with {answer.status}; check username, password or token"
                raise StreamError(message)
            try:
                content = json.loads(answer.data)
            except ValueError as error:
                raise self._nonsense(path) from error
            if answer.status >= 400:
                told = content.get("message", "") if isinstance(content, dict) else ""
                message = f"registry {self._url}: {method} {path} refused with {answer.status}: {told[:500]}"
                raise ConfigError(message)
            return content
        message = (
            f"registry {self._url}: no answer after {self._config.attempts} attempts ({failure}); "
            "is it running, and the URL right?"
        )
        raise StreamError(message)


def _hidden(url: str) -> str:
    """A URL without what stands before an @."""
    return url if "@" not in url else "…@" + url.rpartition("@")[2]


def registry_of(wire: WireSection) -> Registry | None:
    """The registry of [wire]; None without."""
    if wire.registry is None:
        return None
    password = wire.registry_password.value if wire.registry_password else None
    return Registry(
        RegistryConfig(
            wire.registry,
            username=wire.registry_user,
            password=password,
            ca=str(wire.registry_ca) if wire.registry_ca else None,
        )
    )
