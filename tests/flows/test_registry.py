from __future__ import annotations

from collections.abc import Iterator

import pytest
from typer.testing import CliRunner

from flows.contracts_cli import contracts_app, published_form, subject_of
from flows.registry import Registry, RegistryConfig
from schemas.codec import CONTRACTS
from schemas.errors import ConfigError, StreamError
from schemas.wire_avro import FramedDecoder, FramedEncoder
from tests.flows.registry_server import Server, registry_server
from tests.schemas.test_codec import OURS, with_nulls


@pytest.fixture
def server() -> Iterator[Server]:
    with registry_server() as running:
        yield running


def client(server: Server, pauses: list[float] | None = None) -> Registry:
    return Registry(RegistryConfig(server.url), (pauses if pauses is not None else []).append)


def test_contracts_registered_on_deploy_frame_records_that_come_back(server: Server) -> None:
    registry = client(server)
    ids = {name: registry.register(subject_of(name), published_form(name)) for name in CONTRACTS}
    assert ids == {name: registry.register(subject_of(name), published_form(name)) for name in CONTRACTS}
    reader = client(server)
    for name in CONTRACTS:
        value, headers = FramedEncoder(ids)(name, OURS[name])
        assert FramedDecoder(name, reader)(value, headers) == with_nulls(name)
    before = len(server.requests)
    assert reader.schema(ids["decision"]) == published_form("decision")
    assert len(server.requests) == before


def test_registry_that_fails_is_asked_again_with_longer_pauses_and_then_said(server: Server) -> None:
    pauses: list[float] = []
    registry = client(server, pauses)
    server.failures = 2
    assert registry.register("s", published_form("alert")) == 1
    assert pauses == [0.2, 0.4]
    server.failures = 99
    with pytest.raises(StreamError, match=r"no answer after 4 attempts \(status 503\); is it running"):
        registry.schema(1)
    server.failures = 0
    assert registry.schema(1) is not None


def test_nobody_at_the_address_is_a_stream_error() -> None:
    with registry_server() as gone:
        url = gone.url
    with pytest.raises(StreamError, match="no answer after 1 attempts"):
        Registry(RegistryConfig(url, attempts=1)).schema(1)


def test_unknown_id_is_none_and_not_asked_for_again_at_once(server: Server) -> None:
    registry = client(server)
    assert registry.schema(77) is None
    assert registry.schema(77) is None
    assert len(server.requests) == 1


def test_credentials_are_sent_and_refusals_say_what_to_check(server: Server) -> None:
    server.credentials = "weir:secret"
    allowed = Registry(RegistryConfig(server.url, "weir", "secret"))
    assert allowed.register("s", published_form("alert")) == 1
    with pytest.raises(StreamError, match="refused with 401; check username, password or token"):
        client(server).schema(1)
    assert "secret" not in repr(RegistryConfig(server.url, "weir", "secret"))


@pytest.mark.parametrize(
    ("url", "message"),
    [("kafka://x", "expected http://HOST"), ("http://u:p@host", "holds a user or password"), ("http://", "expected")],
)
def test_url_that_is_no_registry_is_refused(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RegistryConfig(url)


def test_incompatible_schema_is_told_by_the_check_and_refused_by_registration(server: Server) -> None:
    registry = client(server)
    form = published_form("outcome")
    assert registry.incompatible("s", form) == []
    registry.register("s", form)
    worse = {**form, "fields": [*form["fields"], {"name": "colour", "type": "string"}]}
    assert "colour: expected in every record" in registry.incompatible("s", worse)[0]
    with pytest.raises(ConfigError, match="refused with 409: colour"):
        registry.register("s", worse)


def test_commands_register_and_check_against_the_registry(server: Server) -> None:
    runner = CliRunner()
    done = runner.invoke(contracts_app, ["register", "--registry", server.url])
    assert done.exit_code == 0, done.output
    assert "decisions.v1-value: id " in done.output
    assert runner.invoke(contracts_app, ["check", "--registry", server.url]).exit_code == 0
    first = server.subjects["decisions.v1-value"][0]
    server.schemas[first - 1] = {**published_form("decision"), "fields": []}
    refused = runner.invoke(contracts_app, ["check", "--registry", server.url])
    assert isinstance(refused.exception, ConfigError)
    assert "decision against the registry: decision_id: expected in every record" in str(refused.exception)
