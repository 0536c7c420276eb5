"""A real broker with TLS, SCRAM and ACLs that deny: what connects, what is refused, and what the refusal says."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest
from confluent_kafka import Consumer, Producer
from typer.testing import CliRunner, Result

from flows.config import load_config
from flows.kafka_admin import Admin
from flows.kafka_properties import kafka_properties
from flows.topics_cli import topics_app
from load_tests.kafka_broker import java_command
from load_tests.stand_ins import free_ports
from schemas.codec import CONTRACTS
from schemas.errors import ConfigError, StreamError
from schemas.wire_avro import FingerprintDecoder, FingerprintEncoder
from tests.certificates import certificates
from tests.flows.traffic import payment, write_profile
from tests.kafka import console_consumer, own_broker, send
from tests.schemas.test_codec import OURS, with_nulls

PASSWORD = "correct horse"  # noqa: S105 - of a broker that lives for one test run
ONE = ["--replicas", "1", "--min-in-sync", "1", "--partitions", "3"]
PLAIN = {"client.id": "test"}


@dataclass(frozen=True)
class Node:
    plain: str
    secure: str
    misnamed: str
    ca: Path


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("kafka")
    ca, keystore = certificates(folder)
    names = ("PLAINTEXT", "SECURE", "MISNAMED", "CONTROLLER")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    hosts = {name: "127.0.0.2" if name == "MISNAMED" else "127.0.0.1" for name in names}
    places = {name: f"{name}://{hosts[name]}:{ports[name]}" for name in names}
    scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    properties = {
        "listeners": ",".join(places.values()),
        "advertised.listeners": ",".join(place for name, place in places.items() if name != "CONTROLLER"),
        "controller.quorum.voters": f"1@127.0.0.1:{ports['CONTROLLER']}",
        "listener.security.protocol.map": (
            "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SECURE:SASL_SSL,MISNAMED:SASL_SSL"
        ),
        "sasl.enabled.mechanisms": "SCRAM-SHA-256",
        "listener.name.secure.scram-sha-256.sasl.jaas.config": scram,
        "listener.name.misnamed.scram-sha-256.sasl.jaas.config": scram,
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(keystore),
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
    }
    broker = own_broker(folder / "kafka", properties, ports["PLAINTEXT"], {"weir": PASSWORD})
    try:
        yield Node(broker.bootstrap, f"127.0.0.1:{ports['SECURE']}", f"127.0.0.2:{ports['MISNAMED']}", ca)
    finally:
        broker.kill()


def secured(node: Node, directory: Path, address: str, password: str = PASSWORD, ca: Path | None = None) -> Path:
    """A weir.toml that logs in at an address; its password stands in a file."""
    write_profile(directory / "profile")
    (directory / "password").write_text(password + "\n")
    names = {
        "transactions": "transactions.v1",
        "decisions": "decisions.v1",
        "labelled_outcomes": "labelled-outcomes.v1",
    }
    names["dead_letters"] = "dead-letters.v1"
    streams = "\n".join(f'{name} = "kafka://{address}/{topic}"' for name, topic in names.items())
    path = directory / "weir.toml"
    path.write_text(
        f'profile = "profile"\n[streams]\n{streams}\n[wire]\nformat = "json"\n[state]\nfolder = "state"\nshards = 1\n'
        f'[metrics]\nport = 0\n[kafka.security]\nprotocol = "sasl_tls"\nca_file = "{ca or node.ca}"\n'
        'mechanism = "scram-sha-256"\nusername = "weir"\npassword = { file = "password" }\n'
    )
    return path


def topics(*words: str) -> Result:
    return CliRunner().invoke(topics_app, list(words))


def test_topics_are_planned_applied_once_and_kept_and_avro_is_read_by_plain_consumers(node: Node) -> None:
    planned = topics("plan", "--brokers", node.plain, *ONE)
    assert planned.output.count("create ") >= len(CONTRACTS), planned.output
    assert topics("apply", "--brokers", node.plain, *ONE).exit_code == 0
    again = topics("apply", "--brokers", node.plain, *ONE)
    assert again.exit_code == 0, again.output
    assert again.output.count("keep ") == len(CONTRACTS), again.output
    found = Admin(node.plain, {**PLAIN, "bootstrap.servers": node.plain}).describe(["decisions.v1", "models.v1"])
    assert found["decisions.v1"].config["message.timestamp.type"] == "LogAppendTime"
    assert found["decisions.v1"].config["cleanup.policy"] == "delete"
    assert (found["models.v1"].config["cleanup.policy"], found["models.v1"].partitions) == ("compact", 1)
    refused = topics("apply", "--brokers", node.plain, *ONE[:-1], "5")
    assert isinstance(refused.exception, ConfigError)
    assert "decisions.v1: 3 partitions, promised are 5; adding some" in str(refused.exception)

    value, headers = FingerprintEncoder()("decision", OURS["decision"])
    producer = Producer({"bootstrap.servers": node.plain})
    producer.produce("decisions.v1", value, b"A1", partition=0, headers=list(headers))
    assert producer.flush(20) == 0
    consumer = Consumer({"bootstrap.servers": node.plain, "group.id": "third", "auto.offset.reset": "earliest"})
    consumer.subscribe(["decisions.v1"])
    message = consumer.poll(30)
    consumer.close()
    assert message is not None
    assert message.error() is None
    payload, carried = message.value(), message.headers()
    assert isinstance(payload, bytes)
    assert isinstance(carried, list)
    named = [(str(key), content) for key, content in carried if isinstance(content, bytes)]
    assert FingerprintDecoder("decision")(payload, named) == with_nulls("decision")
    assert console_consumer(node.plain, "decisions.v1", "--from-beginning", "--max-messages", "1") == payload + b"\n"


def test_right_password_connects_and_what_acls_deny_is_told_with_what_to_grant(node: Node, tmp_path: Path) -> None:
    # Without an ACL the user sees no topics at all, and may not make one.
    path = secured(node, tmp_path, node.secure)
    planned = topics("plan", "--config", str(path), *ONE)
    assert planned.output.count(": create with") == len(CONTRACTS), planned.output
    done = topics("apply", "--config", str(path), *ONE)
    assert isinstance(done.exception, StreamError)
    assert "by an ACL" in str(done.exception)


def test_a_flow_that_acls_deny_ends_naming_the_acl_and_decides_once_it_is_granted(node: Node, tmp_path: Path) -> None:
    assert topics("apply", "--brokers", node.plain, *ONE).exit_code == 0
    path = secured(node, tmp_path, node.secure)
    words = [sys.executable, "-m", "flows.cli", "decide", "--config", str(path)]
    denied = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    assert denied.returncode != 0
    assert "TOPIC_AUTHORIZATION_FAILED" in denied.stdout + denied.stderr
    assert "an ACL denies the topic; grant it to Weir's user" in denied.stdout + denied.stderr
    assert "Traceback" not in denied.stdout + denied.stderr
    grant = ["--bootstrap-server", node.plain, "--add", "--allow-principal", "User:weir"]
    for what in (["--operation", "All", "--topic", "*"], ["--operation", "All", "--group", "*"]):
        command = java_command("org.apache.kafka.tools.AclCommand", *grant, *what)
        subprocess.run(command, capture_output=True, check=True, timeout=90)
    one = orjson.dumps(payment(random.Random(1), 1, datetime.now(UTC)))
    send(node.plain, "transactions.v1", [(b"a", one)])
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log)
    reader = Consumer({"bootstrap.servers": node.plain, "group.id": "granted", "auto.offset.reset": "earliest"})
    reader.subscribe(["decisions.v1"])
    try:
        wanted = orjson.loads(one)["transaction_id"].encode()
        while wanted not in (((message := reader.poll(60)) and message.value()) or b""):
            assert message is not None, (tmp_path / "log").read_text()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, (tmp_path / "log").read_text()
    finally:
        process.kill()
        process.wait()
        reader.close()


@pytest.mark.parametrize(
    ("what", "match"),
    [
        ("password", "check `username`, its password and `mechanism`"),
        ("authority", r"not from a known authority .set `ca_file`"),
        ("name", "or is not for this host "),
    ],
)
def test_what_is_wrong_with_a_connection_is_told(node: Node, tmp_path: Path, what: str, match: str) -> None:
    (tmp_path / "other").mkdir()
    other, _ = certificates(tmp_path / "other")
    address = node.misnamed if what == "name" else node.secure
    password, ca = "wrong" if what == "password" else PASSWORD, other if what == "authority" else None
    config = load_config(secured(node, tmp_path, address, password, ca))
    with pytest.raises(StreamError, match=match) as told:
        Admin(address, kafka_properties(config, address)).describe(["decisions.v1"])
    assert "wrong" not in str(told.value)


def test_which_brokers_are_meant_must_be_clear(tmp_path: Path, node: Node) -> None:
    neither = topics("plan")
    assert isinstance(neither.exception, ConfigError)
    assert "expected --config weir.toml or --brokers HOST:PORT" in str(neither.exception)
    path = secured(node, tmp_path, node.secure)
    path.write_text(path.read_text().replace(f"{node.secure}/dead", "other:9092/dead"))
    several = topics("plan", "--config", str(path))
    assert isinstance(several.exception, ConfigError)
    assert "names several clusters" in str(several.exception)
