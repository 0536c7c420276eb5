"""What weir.toml says of model releases: topic, artefacts, keys."""

from __future__ import annotations

import os
from typing import Final

from flows.config import MODELS, Config
from flows.contracts_cli import published_form, subject_of
from flows.kafka_properties import kafka_properties
from flows.registry import registry_of
from flows.releases import CONTRACT, Releasing
from flows.streams import parse_stream
from schemas.errors import ConfigError
from schemas.wire import AvroEncoder, JsonDecoder, JsonEncoder
from schemas.wire_avro import FingerprintDecoder, FingerprintEncoder, FramedDecoder, FramedEncoder
from state.artefacts import ArtefactStore
from state.keys import MODEL_KEYS_FILE_VARIABLE, MODEL_KEYS_VARIABLE, ModelKeys

_MIB: Final = 1 << 20


def releasing(config: Config) -> Releasing | None:
    """Where releases are announced, where artefacts lie, who may release; None without streams.models.

    Raises:
        ConfigError: Keys are wanting, or the registry refuses the contract.
        StreamError: The registry does not answer.
    """
    if MODELS not in config.streams or config.models.artefacts is None:
        return None
    stream = parse_stream(MODELS, config.streams[MODELS])
    given = {
        name: value
        for name, value in kafka_properties(config, "").items()
        if name not in ("bootstrap.servers", "client.id")
    }
    decoder: JsonDecoder | FingerprintDecoder | FramedDecoder
    encoder: JsonEncoder | AvroEncoder
    registry = None if config.wire.format == "json" else registry_of(config.wire)
    if config.wire.format == "json":
        decoder, encoder = JsonDecoder(), JsonEncoder()
    elif registry is None:
        decoder = FingerprintDecoder(CONTRACT)
        encoder = AvroEncoder(FingerprintEncoder(), decoder)
    else:
        decoder = FramedDecoder(CONTRACT, registry)
        ids = {CONTRACT: registry.register(subject_of(CONTRACT), published_form(CONTRACT))}
        encoder = AvroEncoder(FramedEncoder(ids), decoder)
    artefacts = ArtefactStore(config.models.artefacts, config.models.most_mib * _MIB)
    return Releasing(stream, given, decoder, encoder, model_keys(config), artefacts)


def model_keys(config: Config) -> ModelKeys:
    """Keys of those who may release models.

    Raises:
        SecretError: They cannot be read.
        ConfigError: There are none.
    """
    keys_file = config.models.keys_file
    keys = ModelKeys.from_file(keys_file) if keys_file is not None else ModelKeys.from_environment(os.environ)
    if keys is None:
        message = (
            f"{config.path}: streams.models needs the keys that releases are signed with; expected models.keys_file, "
            f"or {MODEL_KEYS_FILE_VARIABLE} or {MODEL_KEYS_VARIABLE} in the environment, found none; a file of keys: "
            "docs/runbooks/models.md"
        )
        raise ConfigError(message)
    return keys
