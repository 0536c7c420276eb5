"""URLs of Kinesis in weir.toml, what `weir config check` says of the streams, and whose credentials are used."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from botocore.credentials import RefreshableCredentials

from flows.config import Config, load_config
from flows.config_check import check_config
from flows.connectors import open_publisher
from flows.kinesis_check import judge_stream
from flows.kinesis_client import PASSING, ClientFault, client_of, kind_of, stream_error
from flows.kinesis_shards import facts_of
from flows.learn_live import learner_config
from flows.live_options import LiveOptions
from flows.profile import load_profile
from flows.source import Run
from flows.streams import KinesisStream, parse_stream
from load_tests.kinesis_local import KinesisLocal
from schemas.errors import ConfigError
from tests.flows.kinesis_node import kinesis, proxy, small_profile
from tests.flows.kinesis_proxy import Proxy, closing_connections, fault
from tests.state.s3_server import missing, s3_server

__all__ = ["kinesis", "proxy"]

ROLE = "arn:aws:iam::123456789012:role/weir"


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("kinesis://", "the stream's name may have"),
        ("kinesis://a/b", "the stream's name may have"),
        ("kinesis://a?regio=eu-west-1", "'regio' is none of region, endpoint, role, external_id, poll_ms"),
        ("kinesis://a?region=Europe", "region is 'Europe', expected such as eu-west-1"),
        ("kinesis://a?region=eu-west-1&region=eu-west-2", "'region' is given twice"),
        ("kinesis://a?role=weir", "role is 'weir', expected such as arn:aws:iam::123456789012:role/weir"),
        ("kinesis://a?external_id=x1", "external_id has no effect without role"),
        ("kinesis://a?endpoint=127.0.0.1", "endpoint is '127.0.0.1', expected http"),
        ("kinesis://a?poll_ms=1", "poll_ms is '1', expected 10 to 10000"),
    ],
)
def test_a_url_that_is_wrong_says_why(url: str, why: str) -> None:
    with pytest.raises(ConfigError, match=r"expected a URL kinesis://STREAM") as found:
        parse_stream("transactions", url)
    assert why in str(found.value)


@pytest.mark.parametrize(
    "url",
    [
        "kinesis://AKIA:hunter2@a",
        "kinesis://AKIA:hunter2/more+of/it@a",
        "kinesis://a?endpoint=http://AKIA:hunter2@h:1",
        "kinesis://a?endpoint=AKIA:hunter2@h:1",
        "kinesis://a?endpoint=http%3A%2F%2FAKIA:hunter2%40h:1",
    ],
)
def test_credentials_in_a_url_are_refused_and_not_shown(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="credentials come from the environment") as found:
        parse_stream("transactions", url)
    assert "hunter2" not in str(found.value)
    (tmp_path / "weir.toml").write_text(f'profile = "p"\n[streams]\ntransactions = "{url}"\n')
    with pytest.raises(ConfigError, match="credentials come from the environment") as found:
        load_config(tmp_path / "weir.toml")
    assert "hunter2" not in str(found.value)


def test_a_url_says_all_there_is_to_say() -> None:
    url = f"kinesis://payments?region=eu-west-1&endpoint=https://h&role={ROLE}&external_id=x-1&poll_ms=420"
    assert parse_stream("t", url) == KinesisStream("payments", "eu-west-1", "https://h", ROLE, "x-1", 420)
    assert parse_stream("t", "kinesis://payments").topic == "kinesis:payments"


def test_inputs_are_of_one_kind_and_outputs_may_differ(tmp_path: Path) -> None:
    outputs = {"decisions": "kafka://a:1/d", "dead_letters": "kafka://a:1/l"}
    mixed = {"transactions": "kinesis://t?region=eu-west-1", "device_events": "kafka://a:1/e"}
    both = {"decisions": "kafka://a:1/d", "dead_letters": "kinesis://l?region=eu-west-1"}
    why = r"streams\.device_events is kafka:// \(e\); expected kinesis:// as streams\.transactions is: all inputs"
    with pytest.raises(ConfigError, match=why):
        LiveOptions(tmp_path, mixed, outputs).streams()
    LiveOptions(tmp_path, {"transactions": mixed["transactions"]}, outputs).streams()
    LiveOptions(tmp_path, {"transactions": mixed["transactions"]}, both).streams()
    twice = {"transactions": "kinesis://t?region=eu-west-1", "device_events": "kinesis://t?region=eu-west-2"}
    with pytest.raises(ConfigError, match="two streams are called 'kinesis:t'"):
        LiveOptions(tmp_path, twice, outputs).streams()


def test_a_file_that_mixes_the_inputs_of_a_flow_is_refused_with_the_name_of_the_key(
    kinesis: KinesisLocal, tmp_path: Path
) -> None:
    good = _config(kinesis, tmp_path, kinesis.endpoint)
    text = good.path.read_text()
    good.path.write_text(text.replace(good.streams["labelled_outcomes"], "kafka://a:1/labelled"))
    with pytest.raises(
        ConfigError, match=r"weir\.toml: streams\.labelled_outcomes is kafka:// \(labelled\); expected kin"
    ):
        load_config(good.path)
    good.path.write_text(text.replace(good.streams["decisions"], "kafka://a:1/decisions"))
    mixed = load_config(good.path)  # outputs may differ
    told = replace(mixed, streams={**mixed.streams, "outcomes": kinesis.url("o")})
    with pytest.raises(
        ConfigError, match=r"streams\.outcomes is kinesis:// \(kinesis:o\); expected kafka:// as streams\.d"
    ):
        learner_config(told)


def _config(server: KinesisLocal, directory: Path, endpoint: str, missing: bool = False) -> Config:
    small_profile(directory / "p")
    names = {
        one: f"{one.replace('_', '-')}-{uuid.uuid4().hex[:6]}"
        for one in ("transactions", "decisions", "labelled_outcomes", "dead_letters")
    }
    for name in list(names.values())[: 3 if missing else 4]:
        server.make(name)
    server.client.increase_stream_retention_period(StreamName=names["decisions"], RetentionPeriodHours=168)
    urls = "\n".join(f'{one} = "{server.url(name)}"' for one, name in names.items()).replace(server.endpoint, endpoint)
    path = directory / "weir.toml"
    path.write_text(f'profile = "p"\n[streams]\n{urls}\n[state]\nfolder = "s"\n')
    return load_config(path)


def test_a_check_asks_kinesis_and_says_what_is_missing(kinesis: KinesisLocal, proxy: Proxy, tmp_path: Path) -> None:
    config = _config(kinesis, tmp_path, proxy.endpoint, missing=True)
    report = check_config(config, lambda _brokers: {})
    (problem,) = report.problems
    assert "streams.dead_letters): ResourceNotFoundException" in problem
    assert "make it (docs/aws.md)" in problem
    assert sum("stream kinesis:" in line for line in report.good) == 3
    proxy.rules["DescribeStreamSummary"] = lambda _request, _ask: fault("InternalFailure", 500)
    report = check_config(config, lambda _brokers: {})
    assert not report.problems
    assert sum("Kinesis does not answer (InternalFailure)" in line for line in report.unchecked) == 4


@pytest.mark.parametrize(
    ("name", "told", "why"),
    [
        ("transactions", {"RetentionPeriodHours": 169}, "it keeps payments 169 hours, and seen_ttl"),
        ("decisions", {"RetentionPeriodHours": 24}, "it keeps records 24 hours; expected 168 at least"),
        ("decisions", {"StreamStatus": "DELETING"}, "is DELETING; expected ACTIVE"),
    ],
)
def test_streams_that_break_a_promise_are_refused(
    kinesis: KinesisLocal, tmp_path: Path, name: str, told: dict[str, object], why: str
) -> None:
    config = _config(kinesis, tmp_path, kinesis.endpoint)
    stream = parse_stream(name, config.streams[name])
    assert isinstance(stream, KinesisStream)
    good = {"StreamStatus": "ACTIVE", "RetentionPeriodHours": 168, "OpenShardCount": 1}
    profile = load_profile(config.profile)
    assert list(judge_stream(config, profile, name, stream, good)) == []
    (problem,) = judge_stream(config, profile, name, stream, {**good, **told})
    assert why in problem


def test_a_role_is_assumed_with_the_credentials_found_and_its_own_sign_what_is_asked(
    kinesis: KinesisLocal, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"role-{uuid.uuid4().hex[:6]}"
    kinesis.make(name)
    reason = missing()
    if reason:
        pytest.skip(reason)
    with s3_server() as environment:  # moto answers for STS too
        for variable, value in environment.items():
            monkeypatch.setenv(variable, value)
        own = environment["AWS_ACCESS_KEY_ID"]
        plain = kinesis.url(name).replace(kinesis.endpoint, proxy.endpoint)
        for url, signed_by_own in ((plain, True), (f"{plain}&role={ROLE}&external_id=x-1", False)):
            proxy.keys.clear()
            stream = parse_stream("t", url)
            assert isinstance(stream, KinesisStream)
            assert facts_of(client_of(stream), name).shards.keys() == {0}
            assert (own in proxy.keys) is signed_by_own
        assert all(key.startswith("ASIA") for key in proxy.keys)


def test_no_message_holds_a_credential(kinesis: KinesisLocal, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAOFTHETEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2-of-the-test")
    stream = parse_stream("t", kinesis.url("none").replace(kinesis.endpoint, proxy.endpoint))
    assert isinstance(stream, KinesisStream)
    client = client_of(stream)
    for answer in (fault("UnrecognizedClientException"), fault("AccessDeniedException"), None):
        proxy.rules["DescribeStreamSummary"] = lambda _request, _ask, answer=answer: answer  # type: ignore[misc]
        with pytest.raises(ClientFault) as raised:
            facts_of(client, "none")
        told = str(stream_error("inputs", "none", raised.value))
        assert "hunter2" not in told
        assert "AKIA" not in told


def test_what_aws_repeats_of_a_signed_request_is_left_out(proxy: Proxy, kinesis: KinesisLocal) -> None:
    signed = (
        "The request signature we calculated does not match.\n\nThe Canonical String for this request should have "
        "been\n'POST\n/\n\nx-amz-security-token:FwoGhunter2\n"
    )
    incomplete = "'Credential=AKIAHUNTER2000/x, Signature=hunter2' is not valid, AKIAHUNTER2000 neither"
    stream = parse_stream("t", kinesis.url("none").replace(kinesis.endpoint, proxy.endpoint))
    assert isinstance(stream, KinesisStream)
    for name, text in (("InvalidSignatureException", signed), ("IncompleteSignatureException", incomplete)):
        proxy.rules["DescribeStreamSummary"] = lambda _request, _ask, told={"__type": name, "message": text}: (
            400,
            told,
        )  # type: ignore[misc]
        with pytest.raises(ClientFault) as raised:
            facts_of(client_of(stream), "none")
        told = str(stream_error("inputs", "none", raised.value))
        assert name in told
        assert "hunter2" not in told.lower()
        assert "POST" not in told
        assert "\n" not in told


def test_a_refresh_of_credentials_that_failed_is_logged_without_the_answer(caplog: pytest.LogCaptureFixture) -> None:
    def refused() -> dict[str, str]:
        message = "x-amz-security-token:hunter2"
        raise ConnectionError(message)

    soon = datetime.now(UTC) + timedelta(seconds=30)
    with pytest.raises(ConnectionError):
        RefreshableCredentials("a", "b", "c", soon, refused, "assume-role").get_frozen_credentials()
    assert "Refreshing temporary credentials failed" in caplog.text
    assert "hunter2" not in caplog.text


def test_a_role_is_asked_for_once_a_request_so_that_an_outage_of_sts_is_no_hang(
    kinesis: KinesisLocal, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing_connections() as (endpoint, count):
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", endpoint)
        stream = parse_stream("t", f"{kinesis.url('none')}&role={ROLE}")
        assert isinstance(stream, KinesisStream)
        with pytest.raises(ClientFault) as raised:
            facts_of(client_of(stream), "none")
        assert kind_of(raised.value) == PASSING
        assert count() == 1


def test_what_kinesis_has_not_is_refused(kinesis: KinesisLocal, tmp_path: Path) -> None:
    outputs = {"decisions": kinesis.url("d"), "dead_letters": kinesis.url("l")}
    options = LiveOptions(tmp_path, {"transactions": kinesis.url("t")}, outputs, transactional=True)
    with pytest.raises(ConfigError, match=r"decide\.transactional is true: expected outputs on Kafka, found Kinesis"):
        open_publisher(options.streams()[1], options, Run(), {})
    config = _config(kinesis, tmp_path, kinesis.endpoint)
    config = replace(config, streams={**config.streams, "outcomes": kinesis.url("o")})
    with pytest.raises(ConfigError, match=r"learn\.settle is 1 s; expected at least 2 s with streams of Kinesis"):
        learner_config(config)
    settled = replace(config, learn=replace(config.learn, settle_s=3.0))
    assert learner_config(settled).streams["outcomes"].startswith("kinesis://")
    models = replace(settled, streams={**settled.streams, "models": kinesis.url("m")})
    with pytest.raises(ConfigError, match=r"stream models: expected a URL kafka://.*only topics of Kafka will do here"):
        learner_config(models)
