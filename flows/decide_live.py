"""`weir decide`: what weir.toml says, as the live flow takes it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from datetime import timedelta
from typing import Any, Final

from flows.config import MODELS, Config, WireSection
from flows.config_check import artefact_store, model_keys, pan_keys, state_keys, state_options
from flows.contracts_cli import published_form, subject_of
from flows.kafka_properties import kafka_properties
from flows.live import run_live
from flows.live_graph import DecideGraph
from flows.live_options import INPUTS, OUTPUTS, LiveOptions
from flows.live_process import CONTRACTS, LiveProcess, now_us
from flows.registry import registry_of
from flows.release_watch import ReleaseWatch
from flows.releases import ReleaseSource
from flows.streams import kafka_stream
from schemas.errors import ConfigError
from schemas.wire import AvroEncoder, JsonDecoder, JsonEncoder, WireDecoder, WireEncoder
from schemas.wire_avro import FingerprintDecoder, FingerprintEncoder, FramedDecoder, FramedEncoder

_PUBLISHED: Final = ("decision", "dead_letter")
"""Contracts that `weir decide` publishes."""


def decide_live(process: LiveProcess) -> None:
    """Decide until the run is to stop.

    Raises:
        ConfigError: Streams, topics, registry or the state folder cannot be used.
        StateError: The state cannot be resumed.
        StreamError: A stream cannot be read or written.
    """
    options = live_options(process)
    with ExitStack() as stack:
        models = announced_models(process)
        if models is not None:
            stack.callback(models.close)
            models.start()
        graph = DecideGraph(process.profile, options, process.run.stats, now_us, models)
        run_live(process.profile, options, process.run, graph)


def announced_models(process: LiveProcess) -> ReleaseWatch | None:
    """The models that are announced; None where no stream or no [model] is declared: the profile's own decides.

    Raises:
        ConfigError: [models] or its keys are missing or cannot be used.
    """
    config, profile = process.config, process.profile
    url = config.streams.get(MODELS)
    if url is None:
        return None
    if profile.learning.model is None:
        message = f"{config.path}: streams.models is set, and {profile.name}/learning.toml declares no [model] to take"
        raise ConfigError(message)
    cache = config.state.folder / f"models-{process.member.number if process.member else 0}"
    return ReleaseWatch(
        release_source(config), profile.features, profile.restores(), cache, process.run, process.metrics
    )


def release_source(config: Config) -> ReleaseSource:
    """Where releases come from.

    Raises:
        ConfigError: [streams] models, [models] or its keys are missing or cannot be used.
    """
    url = config.streams.get(MODELS)
    if url is None:
        message = f"{config.path}: streams.models is missing; expected kafka://HOST:PORT/models.v1"
        raise ConfigError(message)
    decoders, _ = wire_of(config.wire, {MODELS: url}, ())
    return ReleaseSource(
        kafka_stream(MODELS, url),
        client_properties(config),
        decoders[MODELS],
        model_keys(config),
        artefact_store(config),
    )


def live_options(process: LiveProcess) -> LiveOptions:
    """What the flow is told.

    Raises:
        ConfigError: The registry refuses a contract.
        StreamError: The registry does not answer.
    """
    config, member = process.config, process.member
    inputs = {name: config.streams[name] for name in INPUTS if name in config.streams}
    decoders, encoder = wire_of(config.wire, inputs)
    return LiveOptions(
        state=config.state.folder,
        inputs=inputs,
        outputs={name: config.streams[name] for name in OUTPUTS},
        shards=config.state.shards,
        epoch=timedelta(seconds=config.decide.epoch_s),
        batch=config.decide.batch,
        linger=timedelta(seconds=config.decide.linger_s),
        kafka=client_properties(config),
        group=config.decide.group,
        start={name: start for name, start in config.decide.start.items() if name in inputs},
        headers=config.wire.headers,
        decoders=decoders,
        encoder=encoder,
        output_decoders=output_decoders(config.wire),
        limits=config.limits,
        tokeniser=pan_keys(config),
        deadlines=config.decide.deadlines,
        transactional=config.decide.transactional,
        transaction_s=config.decide.transaction_s,
        memory=state_options(config),
        state_keys=state_keys(config),
        process=None if member is None else (member.number, member.addresses),
        hooks=process.metrics,
    )


def wire_of(
    wire: WireSection, inputs: Mapping[str, Any], published: tuple[str, ...] = _PUBLISHED
) -> tuple[dict[str, WireDecoder], WireEncoder]:
    """Decoder of each input, and the encoder of the outputs, by [wire]; registers what is published.

    Raises:
        ConfigError: The registry refuses a contract.
        StreamError: The registry does not answer.
    """
    if wire.format == "json":
        return {name: JsonDecoder() for name in inputs}, JsonEncoder()
    registry = registry_of(wire)
    if registry is None:
        decoders: dict[str, WireDecoder] = {name: FingerprintDecoder(CONTRACTS[name]) for name in inputs}
        return decoders, AvroEncoder(FingerprintEncoder(), FingerprintDecoder("decision"))
    ids = {name: registry.register(subject_of(name), published_form(name)) for name in published}
    framed: dict[str, WireDecoder] = {name: FramedDecoder(CONTRACTS[name], registry) for name in inputs}
    return framed, AvroEncoder(FramedEncoder(ids), FramedDecoder("decision", registry))


def output_decoders(wire: WireSection, published: tuple[str, ...] = _PUBLISHED) -> dict[str, WireDecoder]:
    """By contract, what reads back from Kinesis what is published; JSON needs none."""
    if wire.format == "json":
        return {}
    registry = registry_of(wire)
    if registry is None:
        return {name: FingerprintDecoder(name) for name in published}
    return {name: FramedDecoder(name, registry) for name in published}


def client_properties(config: Config) -> dict[str, str | int | float | bool]:
    """Properties of all clients; addresses and names are the flow's own."""
    told = kafka_properties(config, "")
    return {name: value for name, value in told.items() if name not in ("bootstrap.servers", "client.id")}
