from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaException, Producer
from typer.testing import CliRunner

from flows.kafka_admin import Admin
from flows.kafka_security import KafkaSecurity, explain, read_secret
from flows.topics_cli import topics_app
from schemas.codec import CONTRACTS
from schemas.errors import ConfigError, SecretError, StreamError
from schemas.wire_avro import FingerprintDecoder, FingerprintEncoder
from tests.flows.kafka_node import PASSWORD, Node, kafka_node
from tests.schemas.test_codec import OURS, with_nulls

ONE = ["--replicas", "1", "--min-in-sync", "1", "--partitions", "3"]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with kafka_node(tmp_path_factory.mktemp("kafka")) as running:
        yield running


def secured(node: Node, password: str = PASSWORD, ca: Path | None = None) -> KafkaSecurity:
    ca = ca or node.ca
    return KafkaSecurity("SASL_SSL", ca=str(ca), mechanism="SCRAM-SHA-256", username="weir", password=password)


def test_topics_are_planned_applied_once_and_kept_and_avro_is_read_by_plain_consumers(node: Node) -> None:
    runner = CliRunner()
    planned = runner.invoke(topics_app, ["plan", "--brokers", node.plain, *ONE])
    assert planned.output.count("create ") >= len(CONTRACTS), planned.output
    assert runner.invoke(topics_app, ["apply", "--brokers", node.plain, *ONE]).exit_code == 0
    again = runner.invoke(topics_app, ["apply", "--brokers", node.plain, *ONE])
    assert again.exit_code == 0, again.output
    assert again.output.count("keep ") == len(CONTRACTS), again.output
    found = Admin(node.plain, KafkaSecurity()).describe(["decisions.v1", "models.v1"])
    assert found["decisions.v1"].config["message.timestamp.type"] == "LogAppendTime"
    assert found["decisions.v1"].config["cleanup.policy"] == "delete"
    assert (found["models.v1"].config["cleanup.policy"], found["models.v1"].partitions) == ("compact", 1)
    refused = runner.invoke(topics_app, ["apply", "--brokers", node.plain, *ONE[:-1], "5"])
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
    words = ["--bootstrap-server", node.plain, "--topic", "decisions.v1", "--from-beginning", "--max-messages", "1"]
    told = node.java("org.apache.kafka.tools.consumer.ConsoleConsumer", *words, "--timeout-ms", "30000")
    assert payload + b"\n" in told
    assert b"Processed a total of 1 messages" in told


def test_right_password_connects_and_denied_topic_names_the_acl(node: Node) -> None:
    # Without an ACL the user sees no topics at all, and may not make one.
    admin = Admin(node.secure, secured(node))
    assert admin.describe(["decisions.v1"]) == {}
    producer = Producer({"bootstrap.servers": node.secure, **secured(node).properties()})
    errors: list[str | None] = []
    producer.produce(
        "decisions.v1",
        b"x",
        on_delivery=lambda error, _: errors.append(explain(error.name(), error.str()) if error else None),
    )
    producer.flush(20)
    assert "grant it Read or Write and Describe by an ACL" in str(errors[0])
    how = ["--protocol", "SASL_SSL", "--ca", str(node.ca), "--mechanism", "SCRAM-SHA-256", "--username", "weir"]
    done = CliRunner().invoke(
        topics_app,
        ["apply", "--brokers", node.secure, *ONE, *how],
        env={"WEIR_KAFKA_PASSWORD": PASSWORD},
    )
    assert isinstance(done.exception, StreamError)
    assert "by an ACL" in str(done.exception)


def test_wrong_password_says_what_to_check(node: Node) -> None:
    with pytest.raises(StreamError, match="check `username`, its password and `mechanism`"):
        Admin(node.secure, secured(node, "wrong")).describe(["decisions.v1"])


def test_unknown_authority_names_the_setting(node: Node, tmp_path: Path) -> None:
    from tests.flows.kafka_node import certificates  # noqa: PLC0415

    other, _ = certificates(tmp_path)
    with pytest.raises(StreamError, match=r"not from a known authority .set `ca`"):
        Admin(node.secure, secured(node, ca=other)).describe(["decisions.v1"])


def test_name_that_is_not_in_the_certificate_is_told(node: Node) -> None:
    with pytest.raises(StreamError, match="or is not for this host name"):
        Admin(node.misnamed, secured(node)).describe(["decisions.v1"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"protocol": "TLS"}, "protocol: expected one of PLAINTEXT"),
        ({"protocol": "SASL_SSL"}, "mechanism: expected one of PLAIN, SCRAM-SHA-256"),
        ({"mechanism": "PLAIN"}, "the protocol is not one of SASL"),
        ({"protocol": "SASL_SSL", "mechanism": "PLAIN", "username": "u"}, "PLAIN needs .* missing: password"),
        ({"protocol": "SASL_SSL", "mechanism": "OAUTHBEARER"}, "missing: token_endpoint, client_id, client_secret"),
        ({"protocol": "SSL", "cert": "c"}, "cert and key: expected both"),
        ({"protocol": "SSL", "ca": "/nowhere"}, "ca: expected a file that can be read"),
        ({"ca": "/nowhere"}, "the protocol has no TLS"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        KafkaSecurity(**settings)


def test_secrets_come_from_a_file_or_the_environment_and_are_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("from file\n")
    assert read_secret("password", str(file), {"V": "x"}, "V") == "from file"
    assert read_secret("password", None, {"V": "x"}, "V") == "x"
    assert read_secret("password", None, {}, "V") is None
    file.write_text("")
    with pytest.raises(SecretError, match="is empty"):
        read_secret("password", str(file), {}, "V")
    shown = repr(KafkaSecurity("SASL_PLAINTEXT", mechanism="PLAIN", username="u", password="hunter2"))  # noqa: S106 - of nobody
    assert "hunter2" not in shown


def test_clients_take_the_properties_of_oauth(node: Node) -> None:
    told = KafkaSecurity(
        "SASL_SSL",
        ca=str(node.ca),
        mechanism="OAUTHBEARER",
        token_endpoint="https://127.0.0.1:1/token",  # noqa: S106 - an address
        client_id="weir",
        client_secret="s",  # noqa: S106 - of nobody
    ).properties()
    try:
        Producer({"bootstrap.servers": node.secure, "log_level": 0, **told})
    except KafkaException as error:
        pytest.fail(f"librdkafka refuses the properties: {error}")
