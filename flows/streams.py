"""A stream's URL → where it stands: kafka://HOST:PORT[,HOST:PORT]/TOPIC, kinesis://STREAM[?region=REGION&...].

For programs that run a flow inside themselves, memory://NAME (flows/memory_streams.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from schemas.errors import ConfigError

KAFKA: Final = "kafka"
KINESIS: Final = "kinesis"
MEMORY: Final = "memory"
SCHEMES: Final = (KAFKA, KINESIS)
"""What a weir.toml may name."""
_FORMS: Final = {
    KAFKA: "kafka://HOST:PORT[,HOST:PORT]/TOPIC",
    KINESIS: "kinesis://STREAM[?region=REGION][&endpoint=URL][&role=ARN][&external_id=TEXT][&poll_ms=NUMBER]",
    MEMORY: "memory://NAME[?partitions=NUMBER]",
}
_ADDRESS: Final = re.compile(r"(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})\Z")
_TOPIC: Final = re.compile(r"[A-Za-z0-9._-]{1,249}\Z")
_STREAM: Final = re.compile(r"[A-Za-z0-9._-]{1,128}\Z")
_MEMORY: Final = re.compile(r"([A-Za-z0-9._-]{1,249})(?:\?partitions=(1000|[1-9][0-9]{0,2}))?\Z")
_REGION: Final = re.compile(r"[a-z]{2}(?:-[a-z]+)+-[0-9]+\Z")
_ROLE: Final = re.compile(r"arn:aws[a-z-]*:iam::[0-9]{12}:role/[A-Za-z0-9+=,.@_/-]{1,512}\Z")
_EXTERNAL_ID: Final = re.compile(r"[A-Za-z0-9+=,.@:/_-]{2,1224}\Z")
_PARTS: Final = ("region", "endpoint", "role", "external_id", "poll_ms")
POLL_MS: Final = 210
"""Between two reads of a shard. AWS allows five a second and shard, to all readers together, and counts by its own
clock: 200 would meet the limit every now and then."""


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


@dataclass(frozen=True, slots=True)
class KinesisStream:
    """A stream of Kinesis and how to come to it.

    Attributes:
        name: Of the stream.
        region: AWS region, None: of the environment or the shared config.
        endpoint: URL to ask instead of AWS's, None: AWS's.
        role: ARN of a role to assume with the credentials found, None: use those.
        external_id: That the role's trust policy asks for.
        poll_ms: Between two reads of a shard.
    """

    name: str
    region: str | None
    endpoint: str | None
    role: str | None
    external_id: str | None
    poll_ms: int = POLL_MS

    @property
    def topic(self) -> str:
        """What it is called where a topic is; no Kafka topic can have this name."""
        return f"{KINESIS}:{self.name}"

    @property
    def account(self) -> tuple[str | None, str | None, str | None, str | None]:
        """Streams with the same may share a client."""
        return self.region, self.endpoint, self.role, self.external_id


@dataclass(frozen=True, slots=True)
class MemoryStream:
    """A log in this process (flows/memory_streams.py).

    Attributes:
        name: Of the log.
        partitions: How many it must have, None: as many as it has.
    """

    name: str
    partitions: int | None = None

    @property
    def topic(self) -> str:
        """What it is called where a topic is; no Kafka topic can have this name."""
        return f"{MEMORY}:{self.name}"


Stream = KafkaStream | KinesisStream | MemoryStream
"""What a URL can name; other schemes join here."""


def refuse_mixed(inputs: Mapping[str, Stream], where: str = "") -> None:
    """Refuse inputs of several kinds.

    Args:
        inputs: By the name in [streams].
        where: Put before the message, such as "weir.toml: ".

    Raises:
        ConfigError: naming the key.
    """
    first = next(iter(inputs), "")
    for name, stream in inputs.items():
        if type(stream) is not type(inputs[first]):
            message = (
                f"{where}streams.{name} is {_scheme(stream)}:// ({stream.topic}); expected "
                f"{_scheme(inputs[first])}:// as streams.{first} is: all inputs of a flow are of one kind, since one "
                "reader puts them into one order; outputs may differ (docs/aws.md)"
            )
            raise ConfigError(message)


def _scheme(stream: Stream) -> str:
    return {KafkaStream: KAFKA, KinesisStream: KINESIS, MemoryStream: MEMORY}[type(stream)]


def url_fault(url: str) -> str | None:
    """What is wrong with a stream's URL, None when nothing is; for messages that list several faults."""
    scheme, found, rest = url.partition("://")
    if not found or scheme not in _FORMS:
        return f"the scheme must be {' or '.join(SCHEMES)}"
    if scheme == KINESIS:
        return _kinesis_fault(rest)
    if scheme == MEMORY:
        return None if _MEMORY.match(rest) else "the name is as a topic's; partitions 1 to 1000"
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


def _kinesis_fault(rest: str) -> str | None:
    name, _, query = rest.partition("?")
    if "@" in name:
        return "credentials come from the environment (docs/aws.md), never from a URL"
    if not _STREAM.match(name):
        return "the stream's name may have letters, digits, '.', '_' and '-', 128 at the most"
    given: dict[str, str] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in _PARTS:
            return f"{key!r} is none of {', '.join(_PARTS)}"
        if key in given:
            return f"{key!r} is given twice"
        given[key] = value
    forms = (("region", _REGION, "eu-west-1"), ("role", _ROLE, "arn:aws:iam::123456789012:role/weir"))
    for key, form, example in forms:
        if key in given and not form.match(given[key]):
            return f"{key} is {given[key]!r}, expected such as {example}"
    if "endpoint" in given:
        parts = urlsplit(given["endpoint"])
        if "@" in given["endpoint"]:
            return "credentials come from the environment (docs/aws.md), never from a URL"
        if parts.scheme not in ("http", "https") or not parts.hostname:
            return f"endpoint is {given['endpoint']!r}, expected http://HOST:PORT or https://HOST"
    if "external_id" in given and "role" not in given:
        return "external_id has no effect without role"
    if "external_id" in given and not _EXTERNAL_ID.match(given["external_id"]):
        return "external_id may have letters, digits and +=,.@:/_-"
    poll = given.get("poll_ms", str(POLL_MS))
    if not re.fullmatch(r"[0-9]{1,5}", poll) or not 10 <= int(poll) <= 10_000:
        return f"poll_ms is {poll!r}, expected 10 to 10000; AWS allows five reads a second and shard, so 200 at least"
    return None


def form_of(url: str) -> str:
    """The form that a URL of this scheme must have, or all forms."""
    return _FORMS.get(url.partition("://")[0], " or ".join(_FORMS[scheme] for scheme in SCHEMES))


def without_user(url: str) -> str:
    """A URL for messages: what stands before an @ is not shown."""
    return re.sub(r"//.*(?:@|%40)", "//[not shown]@", url)


def kafka_stream(name: str, url: str) -> KafkaStream:
    """The topic that a URL names, for what works on topics only.

    Raises:
        ConfigError: It names none.
    """
    stream = parse_stream(name, url)
    if isinstance(stream, KafkaStream):
        return stream
    message = (
        f"stream {name}: expected a URL {form_of(KAFKA)}, found {stream.topic!r}: only topics of Kafka will do here"
    )
    raise ConfigError(message)


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
        message = f"stream {name}: expected a URL {form_of(url)}, found {without_user(url)!r}: {fault}"
        raise ConfigError(message)
    scheme, _, rest = url.partition("://")
    if scheme == MEMORY:
        name, _, partitions = rest.partition("?partitions=")
        return MemoryStream(name, int(partitions) if partitions else None)
    if scheme == KINESIS:
        stream, _, query = rest.partition("?")
        told = dict(parse_qsl(query))
        return KinesisStream(
            stream,
            told.get("region"),
            told.get("endpoint"),
            told.get("role"),
            told.get("external_id"),
            int(told.get("poll_ms", POLL_MS)),
        )
    hosts, _, topic = rest.partition("/")
    return KafkaStream(tuple(hosts.split(",")), topic)
