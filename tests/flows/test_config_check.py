"""`weir config check` sees what is wrong behind weir.toml, and says what it could not see."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer

from flows.config import Config, load_config
from flows.config_check import Topic, check_config, judge_topics
from flows.kafka_properties import kafka_properties, security_properties
from flows.profile import load_profile
from tests.flows.test_config import SECRET, written
from tests.flows.traffic import write_profile

DAY_MS = 86_400_000
GOOD = {"cleanup.policy": "delete", "retention.ms": str(7 * DAY_MS), "message.timestamp.type": "LogAppendTime"}


@pytest.fixture
def config(tmp_path: Path) -> Config:
    write_profile(tmp_path / "p")
    return load_config(written(tmp_path, "[cluster]\nprocesses = 2"))


def judged(config: Config, partitions: int = 4, **settings: str) -> list[str]:
    changed = GOOD | {name.replace("_", "."): value for name, value in settings.items()}
    topics = {stream: url.rpartition("/")[2] for stream, url in config.streams.items()}
    found = dict.fromkeys(topics.values(), Topic(partitions, GOOD)) | {"transactions.v1": Topic(partitions, changed)}
    return list(judge_topics(config, load_profile(config.profile), topics, found))


def test_topics_as_the_contracts_want_them_are_good(config: Config) -> None:
    assert judged(config) == []


@pytest.mark.parametrize(("retention_ms", "kept"), [(str(7 * DAY_MS + 1), "7 days"), ("-1", "for ever")])
def test_payments_kept_for_longer_than_retries_are_remembered_are_refused(
    config: Config, retention_ms: str, kept: str
) -> None:
    (problem,) = judged(config, retention_ms=retention_ms)
    assert problem.startswith(
        f"topic transactions.v1 (streams.transactions): it keeps payments {kept}, and seen_ttl in "
    )
    assert "features.toml is 7 days; expected seen_ttl to be no shorter" in problem


def test_a_topic_without_the_brokers_time_is_refused(config: Config) -> None:
    (problem,) = judged(config, message_timestamp_type="CreateTime")
    assert "message.timestamp.type is 'CreateTime'; expected 'LogAppendTime'" in problem


def test_a_compacted_topic_is_refused(config: Config) -> None:
    (problem,) = judged(config, cleanup_policy="compact")
    assert "cleanup.policy is 'compact'; expected 'delete'" in problem


def test_fewer_partitions_than_processes_are_refused(config: Config) -> None:
    (problem,) = judged(config, partitions=1)
    assert "it has 1 partitions; expected at least cluster.processes (2)" in problem


def test_a_topic_that_is_not_there_is_told_with_the_command_that_makes_it(config: Config) -> None:
    topics = {"decisions": "decisions.v1"}
    (problem,) = judge_topics(config, load_profile(config.profile), topics, {"decisions.v1": None})
    assert problem == "topic decisions.v1 (streams.decisions) does not exist; make it with: weir topics apply"


def closed_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_a_broker_that_does_not_answer_leaves_topics_unchecked(
    tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.config_check.ASK_S", 0.5)
    path = config.path
    path.write_text(path.read_text().replace("localhost:9092", f"127.0.0.1:{closed_port()}"))
    loaded = load_config(path)
    report = check_config(loaded, lambda brokers: kafka_properties(loaded, brokers))
    assert report.problems == []
    assert len(report.unchecked) == 1
    assert "transactions.v1" in report.unchecked[0]
    assert "does not answer (_TRANSPORT" in report.unchecked[0]


def test_a_property_that_librdkafka_does_not_know_is_refused(tmp_path: Path) -> None:
    write_profile(tmp_path / "p")
    loaded = load_config(written(tmp_path, '[kafka]\n"linger.mss" = 1'))
    report = check_config(loaded, lambda brokers: kafka_properties(loaded, brokers))
    assert report.problems == [
        '[kafka]: No such configuration property: "linger.mss"; see librdkafka\'s CONFIGURATION.md'
    ]


def test_a_state_folder_of_another_number_of_shards_is_refused(config: Config) -> None:
    config.state.folder.mkdir()
    (config.state.folder / "manifest.json").write_text('{"shards": 4}')
    (problem,) = check_config(config, None).problems
    assert "state.shards is 8; expected 4, with which" in problem


def test_a_profile_that_is_refused_is_told_with_all_else(config: Config) -> None:
    (config.profile / "policy.toml").write_text('id = "x"\nversions = 1\n')
    config.state.folder.write_text("a file")
    report = check_config(config, None)
    assert any("policy.toml" in problem for problem in report.problems)
    assert any("state.folder" in problem for problem in report.problems)


def weir(*words: str) -> tuple[int, str, str]:
    done = subprocess.run([sys.executable, "-m", "flows.cli", *words], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_the_command_reports_and_refuses(config: Config, tmp_path: Path) -> None:
    code, out, errors = weir("config", "check", "--config", str(config.path), "--no-broker")
    assert (code, errors) == (0, "")
    assert "unchecked  topics: no broker was asked" in out
    shutil.rmtree(tmp_path / "p")
    code, out, errors = weir("config", "check", "--config", str(config.path), "--no-broker")
    assert code == 2
    assert "weir.toml: profile is " in errors


SECURE: dict[str, tuple[str, dict[str, Any]]] = {
    "scram": (
        'protocol = "sasl_tls"\nmechanism = "scram-sha-512"\nusername = "u"\npassword = { env = "WEIR_TEST_SECRET" }',
        {"security.protocol": "sasl_ssl", "sasl.mechanisms": "SCRAM-SHA-512", "sasl.username": "u",
         "sasl.password": SECRET},
    ),
    "mutual": (
        'protocol = "tls"\nca_file = "ca"\ncertificate_file = "crt"\nkey_file = "key"\ncheck_hostname = false',
        {"security.protocol": "ssl", "ssl.endpoint.identification.algorithm": "none"},
    ),
    "oauth": (
        'protocol = "sasl"\nmechanism = "oauthbearer"\ntoken_endpoint = "https://t/t"\nclient_id = "c"\n'
        'client_secret = { env = "WEIR_TEST_SECRET" }',
        {"security.protocol": "sasl_plaintext", "sasl.mechanisms": "OAUTHBEARER", "sasl.oauthbearer.method": "oidc",
         "sasl.oauthbearer.token.endpoint.url": "https://t/t", "sasl.oauthbearer.client.id": "c",
         "sasl.oauthbearer.client.secret": SECRET},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("lines", "expected"), SECURE.values(), ids=SECURE)
def test_security_becomes_properties_that_librdkafka_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: str, expected: dict[str, Any]
) -> None:
    monkeypatch.setenv("WEIR_TEST_SECRET", SECRET)
    for name in ("ca", "crt", "key"):
        (tmp_path / name).touch()
    config = load_config(written(tmp_path, f"[kafka.security]\n{lines}"))
    found = security_properties(config.security)
    files = {name: value for name, value in found.items() if name.endswith(".location")}
    assert found == expected | files
    assert bool(files) == ("ca_file" in lines)
    assert all(Path(value).parent == tmp_path for value in files.values())
    plain = {name: value for name, value in found.items() if name not in files}
    if "oidc" not in plain.values():  # whose client asks for a token at once
        Consumer({**plain, "bootstrap.servers": "127.0.0.1:1", "group.id": "g"}).close()
