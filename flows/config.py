"""weir.toml → `load_config` → Config; all that is wrong is told at once, by file, key, value and expectation.

docs/configuration.md documents every key, and a test compares the two. Secrets come from files and variables only, and
no message shows one. Long, because each table of the file is a section here and a function that reads it, in the
file's order: a reader compares it with docs/configuration.md line by line.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from flows.config_table import Findings, Secret, Table
from flows.streams import KINESIS, SCHEMES, Stream, parse_stream, refuse_mixed, url_fault, without_user
from schemas.errors import ConfigError, WeirError
from schemas.times import parse_rfc3339_us
from schemas.validate import IDENTIFIER_FIELDS, Limits

INPUTS: Final = ("transactions", "device_events", "identity_events", "outcomes")
OUTPUTS: Final = ("decisions", "labelled_outcomes", "dead_letters")
_DECIDED: Final = ("transactions", "device_events", "identity_events", "labelled_outcomes")
"""What `weir decide` reads, in one order."""
MODELS: Final = "models"
"""Stream of releases: read by `weir decide`, written by `weir learn` and `weir models`."""
ALERTS: Final = "alerts"
"""Stream of alerts: written by `weir learn`."""
DAY_S: Final = 86_400.0
STARTS: Final = ("earliest", "latest")

OURS: Final[Mapping[str, str]] = {
    "bootstrap.servers": "the addresses stand in [streams]",
    "metadata.broker.list": "the addresses stand in [streams]",
    "group.id": "use [decide] group",
    "client.id": "Weir names itself",
    "enable.auto.commit": "Weir commits what its snapshots hold",
    "enable.auto.offset.store": "Weir commits what its snapshots hold",
    "auto.offset.reset": "use [decide.start]",
    "enable.idempotence": "always on: without it a retry could be published twice",
    "acks": "always all: less could lose a decision that was acknowledged",
    "request.required.acks": "always all: less could lose a decision that was acknowledged",
    "transactional.id": "use [decide] transactional",
    "isolation.level": "Weir reads committed records only",
    "enable.partition.eof": "Weir needs it",
    "partition.assignment.strategy": "partitions are pinned to processes",
    "group.instance.id": "partitions are pinned to processes",
    "delivery.timeout.ms": "a delivery is retried until the snapshot gives it up",
    "message.timeout.ms": "a delivery is retried until the snapshot gives it up",
    "partitioner": "records are keyed as the contracts say",
    "log_level": "use [log] level",
    "debug": "use [log] level",
    "plugin.library.paths": "Weir loads no foreign code",
}
"""librdkafka properties that Weir sets itself, and where to turn instead."""
SECURITY_PREFIXES: Final = ("security.", "sasl.", "ssl.", "enable.ssl.", "https.ca.", "enable.sasl.")
"""Properties that [kafka.security] stands for; a secret among them must not stand in the file."""

_ADDRESS: Final = re.compile(r"(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})\Z")
_HEADER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")
_PROPERTY: Final = re.compile(r"[a-z][a-z0-9._]{0,127}\Z")
_TOPIC: Final = re.compile(r"[A-Za-z0-9._-]{1,249}\Z")
_GROUP: Final = re.compile(r"[\x21-\x7e]{1,249}\Z")


@dataclass(frozen=True, slots=True)
class DecideSection:
    """[decide]. Times in seconds; `start` by input: earliest, latest, or µs since 1970."""

    group: str
    batch: int
    linger_s: float
    epoch_s: float
    deadlines: bool
    transactional: bool
    transaction_s: float
    start: Mapping[str, str | int]
    stop_within_s: float
    no_progress_after_s: float


@dataclass(frozen=True, slots=True)
class WireSection:
    """[wire]. `registry` is a URL or None; `headers` are passed on from payments to decisions."""

    format: str
    registry: str | None
    registry_user: str | None
    registry_password: Secret | None
    registry_ca: Path | None
    headers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SecuritySection:
    """[kafka.security]. What a protocol or mechanism needs is there, what it has no use for is not."""

    protocol: str
    ca_file: Path | None
    certificate_file: Path | None
    key_file: Path | None
    key_password: Secret | None
    check_hostname: bool
    mechanism: str | None
    username: str | None
    password: Secret | None
    token_endpoint: str | None
    client_id: str | None
    client_secret: Secret | None
    scope: str | None


@dataclass(frozen=True, slots=True)
class StateSection:
    """[state]."""

    folder: Path
    shards: int
    memory_mib: int
    block_cache_mib: int | None
    write_buffers_mib: int | None
    record_cache_mib: int | None
    keys_file: Path | None
    backup_to: str | None
    backup_every_s: float
    backup_keep: int


@dataclass(frozen=True, slots=True)
class ModelsSection:
    """[models]. Where artefacts lie, and who signs; `artefacts` is None where no models are announced."""

    artefacts: str | None
    keys_file: Path | None
    max_mib: int


@dataclass(frozen=True, slots=True)
class LearnSection:
    """[learn]. Times in seconds; `announce` is what a release of the learner may do."""

    folder: Path
    group: str
    batch: int
    epoch_s: float
    settle_s: float
    unmatched_after_s: float
    release_every_s: float
    announce: str
    metrics_port: int
    start: Mapping[str, str | int]


@dataclass(frozen=True, slots=True)
class Config:
    """weir.toml, parsed and checked as far as that goes without a broker.

    Attributes:
        path: The file.
        profile: Folder of the profile.
        streams: URL by stream; the optional inputs may be wanting.
        kafka: librdkafka properties given, for both sides.
        pan_keys_file: None: WEIR_PAN_KEYS_FILE or WEIR_PAN_KEYS of the environment, if set.
        processes: Processes of the cluster.
        addresses: host:port of each process, for a cluster over several hosts; empty: loopback, ports chosen at start.
        metrics_host: Where metrics and health are served.
        metrics_port: Of process 0; each further process has the next one. 0: not served.
    """

    path: Path
    profile: Path
    streams: Mapping[str, str]
    decide: DecideSection
    wire: WireSection
    kafka: Mapping[str, str | int | float | bool]
    security: SecuritySection
    state: StateSection
    pan_keys_file: Path | None
    limits: Limits
    processes: int
    addresses: tuple[str, ...]
    models: ModelsSection
    learn: LearnSection
    metrics_host: str
    metrics_port: int
    log_level: str
    log_format: str


def load_config(path: Path) -> Config:
    """Parse weir.toml.

    Raises:
        ConfigError: The file is refused; one line for each thing that is wrong.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        message = f"{path}: cannot be read ({error.strerror}); expected a configuration, weir.toml"
        raise ConfigError(message) from error
    except UnicodeDecodeError as error:
        message = f"{path}: is not UTF-8, expected a configuration, weir.toml"
        raise ConfigError(message) from error
    except tomllib.TOMLDecodeError as error:
        message = f"{path}: is not TOML: {error}"  # tells line and column, not the line itself
        raise ConfigError(message) from error
    findings = Findings()
    top = Table(path, "", content, findings)
    config = _config(path, top, findings.problems)
    top.close()
    if findings.problems:
        raise ConfigError("\n".join(findings.problems))
    return config


def known_keys() -> list[str]:
    """Full names of all keys that weir.toml may have; [kafka] takes properties of librdkafka besides."""
    findings = Findings()
    _config(Path("weir.toml"), Table(Path("weir.toml"), "", {}, findings), findings.problems)
    return findings.keys


def _config(path: Path, top: Table, problems: list[str]) -> Config:
    profile = path.parent / (top.needed_text("profile", "the profile's folder, such as 'profiles/cards'") or ".")
    if not profile.is_dir():
        top.refuse("profile", str(profile), "a folder with a features.toml")
    processes, addresses = _cluster(top.table("cluster"))
    state = _state(top.table("state"))
    if processes > state.shards:
        problems.append(
            f"{path}: cluster.processes is {processes}; expected at most state.shards ({state.shards}): a shard has "
            "one owner"
        )
    streams = _streams(top.table("streams"), problems)
    kafka = top.table("kafka")
    security = _security(kafka.table("security"))
    metrics = top.table("metrics")
    metrics_host = metrics.text("host", "127.0.0.1", "an address to listen on")
    metrics_port = metrics.whole("port", 9464, 0, 65_535 - processes)
    metrics.close()
    log = top.table("log")
    log_level = log.choice("level", "info", ("debug", "info", "warning", "error"))
    log_format = log.choice("format", "auto", ("auto", "json", "text"))
    log.close()
    pan = top.table("pan")
    keys_file = pan.path("keys_file")
    safe = pan.texts(
        "safe_fields", IDENTIFIER_FIELDS.__contains__, f"identifier fields: {', '.join(sorted(IDENTIFIER_FIELDS))}"
    )
    pan.close()
    return Config(
        path=path,
        profile=profile,
        streams=streams,
        decide=_decide(top.table("decide"), streams),
        wire=_wire(top.table("wire")),
        kafka=_properties(kafka, problems),
        security=security,
        state=state,
        pan_keys_file=keys_file,
        limits=_limits(top.table("limits"), frozenset(safe)),
        processes=processes,
        addresses=addresses,
        models=_models(top.table("models"), streams),
        learn=_learn(top.table("learn"), state, streams),
        metrics_host=metrics_host,
        metrics_port=metrics_port,
        log_level=log_level,
        log_format=log_format,
    )


def _streams(table: Table, problems: list[str]) -> dict[str, str]:
    streams: dict[str, str] = {}
    form = "a URL kafka://HOST:PORT[,HOST:PORT]/TOPIC or kinesis://STREAM[?region=REGION&...]"
    for name in (*INPUTS, *OUTPUTS, MODELS, ALERTS):
        needed = name in ("transactions", *OUTPUTS)
        url = table.needed_text(name, form) if needed else table.text(name, "", form)
        if not url:
            continue
        fault = _url_fault(url)
        if fault:
            table.refuse(name, without_user(url), f"{form}; {fault}")
        elif url in streams.values():
            table.refuse(name, url, "a topic of its own; another stream has this one")
        else:
            streams[name] = url
    table.close()
    try:
        read: dict[str, Stream] = {name: parse_stream(name, streams[name]) for name in _DECIDED if name in streams}
        refuse_mixed(read, f"{table.file}: ")
    except ConfigError as error:
        problems.append(str(error))
    return streams


def _url_fault(url: str) -> str | None:
    """What is wrong with a stream's URL, None when nothing is."""
    scheme, found, rest = url.partition("://")
    if not found or scheme not in SCHEMES:
        return f"the scheme must be {' or '.join(SCHEMES)}"
    if scheme == KINESIS:
        return url_fault(url)
    hosts, _, topic = rest.partition("/")
    if "@" in hosts:
        return "user and password stand in [kafka.security], never in a URL"
    for host in hosts.split(","):
        match = _ADDRESS.match(host)
        if not match or not 0 < int(match[1]) < 65_536:
            return f"{host!r} is no HOST:PORT"
    if not _TOPIC.match(topic) or topic in (".", ".."):
        return "the topic may have letters, digits, '.', '_' and '-'"
    return None


def _without_user(url: str) -> str:
    return without_user(url)


def _decide(table: Table, streams: Mapping[str, str]) -> DecideSection:
    group = table.text("group", "weir-decide", "the name of a consumer group")
    if not _GROUP.match(group):
        table.refuse("group", group, "1 to 249 printable characters without blanks")
    transactional = table.truth("transactional", False)
    if transactional and any(
        streams.get(name, "").startswith(f"{KINESIS}://") for name in ("decisions", "dead_letters")
    ):
        table.refuse("transactional", True, "false where decisions go to Kinesis, which has no transactions")
    if not transactional and "transaction_every" in table.left():
        table.refuse("transaction_every", "set", "nothing: it has no effect without transactional = true")
    section = DecideSection(
        group=group,
        batch=table.whole("batch", 500, 1, 100_000),
        linger_s=table.seconds("linger", 0.002, 0.0, 1.0),
        epoch_s=table.seconds("epoch", 1.0, 0.05, 60.0),
        deadlines=table.truth("deadlines", True),
        transactional=transactional,
        transaction_s=table.seconds("transaction_every", 0.1, 0.005, 60.0),
        start=_starts(table.table("start"), streams, (*INPUTS, "labelled_outcomes")),
        stop_within_s=table.seconds("stop_within", 10.0, 0.1, 3600.0),
        no_progress_after_s=table.seconds("no_progress_after", 30.0, 0.0, DAY_S),
    )
    table.close()
    return section


def _starts(table: Table, streams: Mapping[str, str], names: tuple[str, ...]) -> dict[str, str | int]:
    form = "'earliest', 'latest' or a time such as '2026-11-01T00:00:00Z'"
    starts: dict[str, str | int] = {}
    for name in names:
        value = table.text(name, "earliest", form)
        if value in STARTS:
            starts[name] = value
            continue
        try:
            starts[name] = parse_rfc3339_us(value)
        except ValueError:
            table.refuse(name, value, form)
    table.close()
    return {name: start for name, start in starts.items() if name in streams}


def _models(table: Table, streams: Mapping[str, str]) -> ModelsSection:
    form = "file:///FOLDER or s3://BUCKET/PREFIX"
    artefacts = table.text("artefacts", None, form)
    if artefacts is not None and not artefacts.startswith(("file:///", "s3://")):
        table.refuse("artefacts", artefacts, form)
    if artefacts is None and MODELS in streams:
        table.missing("artefacts", f"{form}, since streams.models is set")
    section = ModelsSection(artefacts, _file(table, "keys_file"), table.whole("max_mib", 64, 1, 4_096))
    table.close()
    return section


def _learn(table: Table, state: StateSection, streams: Mapping[str, str]) -> LearnSection:
    group = table.text("group", "weir-learn", "the name of a consumer group")
    if not _GROUP.match(group):
        table.refuse("group", group, "1 to 249 printable characters without blanks")
    folder = table.path("folder") or state.folder.with_name(f"{state.folder.name}-learn")
    if folder == state.folder:
        table.refuse("folder", str(folder), "another folder than state.folder: learning keeps a state of its own")
    section = LearnSection(
        folder=folder,
        group=group,
        batch=table.whole("batch", 2_000, 1, 100_000),
        epoch_s=table.seconds("epoch", 2.0, 0.05, 60.0),
        settle_s=table.seconds("settle", 1.0, 0.2, 60.0),
        unmatched_after_s=table.seconds("unmatched_after", 7 * DAY_S, 1.0, 400 * DAY_S),
        release_every_s=table.seconds("release_every", 3_600.0, 1.0, 90 * DAY_S),
        announce=table.choice("announce", "challenger", ("challenger", "champion")),
        metrics_port=table.whole("metrics_port", 9474, 0, 65_535),
        start=_starts(table.table("start"), streams, ("decisions", "outcomes")),
    )
    table.close()
    return section


def _wire(table: Table) -> WireSection:
    url = table.text("registry", None, "a URL such as 'http://registry:8081'")
    user = table.text("registry_user", None, "a user's name")
    if url is not None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            table.refuse(
                "registry", without_user(url), "a URL http://HOST:PORT or https://HOST, the user in registry_user"
            )
    section = WireSection(
        format=table.choice("format", "avro", ("avro", "json")),
        registry=url,
        registry_user=user,
        registry_password=table.secret("registry_password"),
        registry_ca=_file(table, "registry_ca_file"),
        headers=table.texts(
            "headers",
            lambda name: _HEADER.match(name) is not None,
            "names of headers: letters, digits, '.', '_' and '-'",
        ),
    )
    if section.registry is not None and section.format == "json":
        table.refuse("registry", url, "none with format = 'json', which a registry has no part in")
    if user is not None and section.registry_password is None:
        table.missing("registry_password", "a secret, since registry_user is set")
    table.close()
    return section


def _properties(table: Table, problems: list[str]) -> dict[str, str | int | float | bool]:
    """Properties of librdkafka itself, whose names hold dots: "linger.ms" = 1."""
    properties: dict[str, str | int | float | bool] = {}
    for name in table.left():
        value = table.take(name)
        where = f"{table.file}: kafka.{name}"
        if name in OURS:
            problems.append(f"{where}: Weir sets this itself; {OURS[name]}")
        elif name.startswith(SECURITY_PREFIXES):
            problems.append(f"{where} (its value is not shown): expected in [kafka.security] (docs/configuration.md)")
        elif isinstance(value, dict):
            dotted = next(iter(_flattened(name, value)), name)
            problems.append(f'{where} is a table; expected a property in quotes: "{dotted}" = ...')
        elif not _PROPERTY.match(name) or not isinstance(value, (str, int, float, bool)):
            problems.append(f"{where}: expected the name of a librdkafka property and a string, number, true or false")
        else:
            properties[name] = value
    return properties


def _flattened(name: str, value: Mapping[str, Any]) -> list[str]:
    """Names as meant, of keys that were written without quotes: linger.ms = 1 is a table in TOML."""
    found = []
    for key, below in value.items():
        dotted = f"{name}.{key}"
        found += _flattened(dotted, below) if isinstance(below, dict) else [dotted]
    return found


def _file(table: Table, key: str) -> Path | None:
    path = table.path(key)
    if path is not None and not path.is_file():
        table.refuse(key, str(path), "a file that exists")
    return path


_PLAIN_SASL: Final = ("plain", "scram-sha-256", "scram-sha-512")


def _security(table: Table) -> SecuritySection:
    protocol = table.choice("protocol", "plaintext", ("plaintext", "tls", "sasl", "sasl_tls"))
    tls, sasl = protocol in ("tls", "sasl_tls"), protocol in ("sasl", "sasl_tls")
    found = {key for key in table.left() if key != "check_hostname"}
    security = SecuritySection(
        protocol=protocol,
        ca_file=_file(table, "ca_file"),
        certificate_file=_file(table, "certificate_file"),
        key_file=_file(table, "key_file"),
        key_password=table.secret("key_password"),
        check_hostname=table.truth("check_hostname", True),
        mechanism=table.choice("mechanism", "", (*_PLAIN_SASL, "oauthbearer")) or None,
        username=table.text("username", None),
        password=table.secret("password"),
        token_endpoint=table.text("token_endpoint", None, "a URL https://..."),
        client_id=table.text("client_id", None),
        client_secret=table.secret("client_secret"),
        scope=table.text("scope", None),
    )
    oauth = security.mechanism == "oauthbearer"
    groups = (
        (tls, ("ca_file", "certificate_file", "key_file", "key_password"), "protocol 'tls' or 'sasl_tls'"),
        (sasl, ("mechanism",), "protocol 'sasl' or 'sasl_tls'"),
        (sasl and not oauth, ("username", "password"), "protocol 'sasl' or 'sasl_tls' and a mechanism with a password"),
        (sasl and oauth, ("token_endpoint", "client_id", "client_secret", "scope"), "mechanism 'oauthbearer'"),
    )
    for used, keys, wants in groups:
        for key in keys:
            if key in found and not used:
                table.refuse(key, "set", f"nothing: it has no effect without {wants}")
    needed = ["mechanism"] if sasl and security.mechanism is None else []
    if sasl and security.mechanism in _PLAIN_SASL:
        needed += ["username", "password"]
    if sasl and oauth:
        needed += ["token_endpoint", "client_id", "client_secret"]
    for key in needed:
        if key not in found:
            table.missing(key, f"it, since protocol is {protocol!r} and mechanism {security.mechanism!r}")
    if tls and ("certificate_file" in found) != ("key_file" in found):
        table.missing(
            "key_file" if "certificate_file" in found else "certificate_file", "certificate and key, or neither"
        )
    table.close()
    return security


def _state(table: Table) -> StateSection:
    folder = table.needed_text("folder", "a folder for the state, such as '/var/lib/weir/state'")
    section = StateSection(
        folder=table.file.parent / (folder or "state"),
        shards=table.whole("shards", 8, 1, 32),
        memory_mib=table.whole("memory_mib", 256, 8, 1 << 20),
        block_cache_mib=table.whole("block_cache_mib", None, 1, 1 << 20),
        write_buffers_mib=table.whole("write_buffers_mib", None, 1, 1 << 20),
        record_cache_mib=table.whole("record_cache_mib", None, 0, 1 << 20),
        keys_file=_file(table, "keys_file"),
        backup_to=table.text("backup_to", None, "file:///FOLDER or s3://BUCKET/PREFIX"),
        backup_every_s=table.seconds("backup_every", 300.0, 1.0, 30 * DAY_S),
        backup_keep=table.whole("backup_keep", 24, 1, 100_000),
    )
    table.close()
    return section


def _cluster(table: Table) -> tuple[int, tuple[str, ...]]:
    addresses = table.texts("addresses", lambda one: _ADDRESS.match(one) is not None, "addresses HOST:PORT")
    given = table.whole("processes", None, 1, 64)
    if given is not None and addresses and given != len(addresses):
        table.refuse("processes", given, f"{len(addresses)}, as many as there are addresses, or no such key")
    table.close()
    return given or len(addresses) or 1, addresses


def _limits(table: Table, safe_fields: frozenset[str]) -> Limits:
    default = Limits()
    payload = table.whole("max_payload_bytes", default.max_payload_bytes, 1, 1 << 30)
    future_s = table.seconds("max_future", default.max_future_us / 1e6, 0.0, 365 * DAY_S)
    table.close()
    try:
        return Limits(max_payload_bytes=payload, max_future_us=round(future_s * 1e6), safe_fields=safe_fields)
    except WeirError as error:
        table.refuse("max_payload_bytes", payload, str(error))
        return default
