"""A stream's URL → where it stands: kafka://HOST:PORT[,HOST:PORT]/TOPIC."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from schemas.errors import ConfigError

SCHEMES: Final = ("kafka",)
"""What this release can read and write live."""
_FORM: Final = "kafka://HOST:PORT[,HOST:PORT]/TOPIC"
_ADDRESS: Final = re.compile(r"(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})\Z")
_TOPIC: Final = re.compile(r"[A-Za-z0-9._-]{1,249}\Z")


@dataclass(frozen=True, slots=True)
class KafkaStream:
    """A topic and the brokers to ask for it.

    Attributes:
        servers: host:port, one or more.
        topic: Name of the topic.
    """

    servers: tuple[str, ...]
    topic: str

    @property
    def bootstrap(self) -> str:
        """The servers as librdkafka takes them."""
        return ",".join(self.servers)


Stream = KafkaStream
"""What a URL can name; other schemes join here."""


def url_fault(url: str) -> str | None:
    """What is wrong with a stream's URL, None when nothing is; for messages that list several faults."""
    scheme, found, rest = url.partition("://")
    if not found or scheme not in SCHEMES:
        return f"the scheme must be {' or '.join(SCHEMES)}"
    hosts, _, topic = rest.partition("/")
    if "@" in rest:
        return "user and password stand in [kafka.security], never in a URL"
    for host in hosts.split(","):
        match = _ADDRESS.match(host)
        if not match or not 0 < int(match[1]) < 65_536:
            return f"{host!r} is no HOST:PORT"
    if not _TOPIC.match(topic) or topic in (".", ".."):
        return "the topic may have letters, digits, '.', '_' and '-', 249 at the most"
    return None


def parse_stream(name: str, url: str) -> Stream:
    """The stream that a URL names.

    Args:
        name: Of the stream, for messages.
        url: As configured.

    Raises:
        ConfigError: It names none; the message never shows a password.
    """
    fault = url_fault(url)
    if fault is not None:
        shown = re.sub(r"//[^/]*@", "//[not shown]@", url)
        message = f"stream {name}: expected a URL {_FORM}, found {shown!r}: {fault}"
        raise ConfigError(message)
    hosts, _, topic = url.partition("://")[2].partition("/")
    return KafkaStream(tuple(hosts.split(",")), topic)
