"""`weir learn`: what weir.toml says, as the learning flow takes it; and its command line."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from flows.streams import KafkaStream, KinesisStream, kafka_stream, parse_stream, refuse_mixed
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from flows.config import Config
    from flows.learn import Believe
    from flows.live_options import LiveOptions
    from flows.live_process import LiveProcess
    from flows.model_hooks import ModelHooks
    from operators.releases import Release
    from schemas.signing import SigningKeys

KINESIS_SETTLED_S: Final = 2.0
"""A record is readable within a second of its arrival, a shard is read every 210 ms, and clocks differ; shorter: a kill
may find the labels in another order than they had."""
_PUBLISHED: Final = ("labelled_outcome", "dead_letter", "model_release", "alert")
"""Contracts that `weir learn` publishes."""


def learn_command(
    config: Annotated[Path, typer.Option(help="The weir.toml to run by: docs/configuration.md.")],
) -> None:
    """Join late labels to decisions, learn them, release models, by weir.toml.

    One process, whatever [cluster] says: a model learns in one order. Its state is [learn] folder. Stops in order on
    SIGTERM or Ctrl-C, and goes on from its state when started again. Exit codes: docs/runbooks/crash.md.
    """
    from flows.config import load_config  # noqa: PLC0415  # --help must not wait for it
    from flows.config_check import check_folder  # noqa: PLC0415
    from flows.live_process import run_processes  # noqa: PLC0415

    loaded = learner_config(load_config(config))
    check_folder(loaded)
    raise typer.Exit(run_processes(loaded, [], learn_live, None, None))


def learner_config(config: Config) -> Config:
    """weir.toml as the learner's process reads it: its own state, ports and pace in the place of decide's.

    Raises:
        ConfigError: There are no outcomes to learn from, models.v1 is not on Kafka, or records settle for too short.
    """
    if "outcomes" not in config.streams:
        message = f"{config.path}: streams.outcomes is missing; expected a topic of outcomes to learn from"
        raise ConfigError(message)
    if "models" in config.streams:
        kafka_stream("models", config.streams["models"])  # who starts reads it to its end: a compacted topic's
    learn, state = config.learn, config.state
    kinds = {name: parse_stream(name, config.streams[name]) for name in ("decisions", "outcomes")}
    refuse_mixed(kinds, f"{config.path}: ")
    if learn.settle_s < KINESIS_SETTLED_S and any(isinstance(stream, KinesisStream) for stream in kinds.values()):
        message = (
            f"{config.path}: learn.settle is {learn.settle_s:g} s; expected at least {KINESIS_SETTLED_S:g} s with "
            'streams of Kinesis, whose records are seen up to a second behind their arrival: settle = "3s"'
        )
        raise ConfigError(message)
    backup_to = None if state.backup_to is None else f"{state.backup_to.rstrip('/')}/learn"
    return replace(
        config,
        state=replace(state, folder=learn.folder, backup_to=backup_to),
        decide=replace(config.decide, group=learn.group, batch=learn.batch, epoch_s=learn.epoch_s, start=learn.start),
        processes=1,
        addresses=(),
        metrics_port=learn.metrics_port,
    )


def learn_live(process: LiveProcess) -> None:
    """Learn until the run is to stop.

    Raises:
        ConfigError: Streams, topics, keys or the state folder cannot be used.
        StateError: The state cannot be resumed.
        StreamError: A stream cannot be read or written.
    """
    from flows.announce import Announcer  # noqa: PLC0415  # --help must not wait for it
    from flows.config import MODELS  # noqa: PLC0415
    from flows.config_check import artefact_store, model_keys  # noqa: PLC0415
    from flows.learn import LearnOptions, run_learn  # noqa: PLC0415

    config, profile, hooks = process.config, process.profile, process.metrics
    announce, believe = None, None
    if MODELS in config.streams and profile.learning.model is not None:
        store, keys = artefact_store(config), model_keys(config)
        announce = Announcer(store, keys, profile.features, hooks)
        believe = _believer(keys, hooks) if _hears_people(config) else None
    loop = profile.learning.loop
    if not _hears_people(config) and (loop.promotion is not None or loop.canary is not None):
        message = (
            f"{config.path}: streams.decisions and streams.outcomes are on Kinesis, and {profile.name}/learning.toml "
            "declares [canary] or [promotion]; the inputs of a flow are of one kind, so the learner could not read "
            "models.v1 for what people say, such as a freeze; expected both on Kafka, or neither table"
        )
        raise ConfigError(message)
    learn = LearnOptions(
        unmatched_us=round(config.learn.unmatched_after_s * 1e6),
        release_every_us=round(config.learn.release_every_s * 1e6),
        announce=announce,
        announces=config.learn.announce,
        believe=believe,
        pending=hooks.pending,
        learned=hooks.learned,
    )
    run_learn(profile, _options(process, announces=announce is not None), learn, process.run)


def _hears_people(config: Config) -> bool:
    """Whether the learner can read models.v1, which is Kafka's, beside its other inputs, which must be of that kind."""
    return all(isinstance(parse_stream(name, config.streams[name]), KafkaStream) for name in ("decisions", "outcomes"))


def _believer(keys: SigningKeys, hooks: ModelHooks) -> Believe:
    from flows.logs import event_log, fields  # noqa: PLC0415  # as above
    from flows.releases import believed  # noqa: PLC0415

    log = event_log("models")

    def believe(payload: bytes | dict[str, Any], offset: int) -> Release | None:
        def refused(reason: str, told: str) -> None:
            hooks.model_load(reason, 0.0, 0, False)
            log.error("release_refused", extra=fields(reason=reason, told=f"models, offset {offset}: {told}"))

        return believed(payload, offset, keys, refused)

    return believe


def _options(process: LiveProcess, *, announces: bool) -> LiveOptions:
    from flows.config_check import state_keys, state_options  # noqa: PLC0415  # as above
    from flows.decide_live import client_properties, output_decoders, wire_of  # noqa: PLC0415
    from flows.decision_input import MOST_BYTES  # noqa: PLC0415
    from flows.learn import LEARNS  # noqa: PLC0415
    from flows.live_options import MODELS, LiveOptions  # noqa: PLC0415

    config = process.config
    inputs: dict[str, Any] = {
        name: config.streams[name]
        for name in LEARNS.inputs
        if name != MODELS or (announces and name in config.streams and _hears_people(config))
    }
    outputs = {
        name: config.streams[name]
        for name in LEARNS.outputs
        if name in config.streams and (announces or name != MODELS)
    }
    decoders, encoder = wire_of(config.wire, inputs, _PUBLISHED)
    return LiveOptions(
        state=config.state.folder,
        inputs=inputs,
        outputs=outputs,
        shards=config.state.shards,
        epoch=timedelta(seconds=config.decide.epoch_s),
        batch=config.decide.batch,
        kafka=client_properties(config),
        group=config.decide.group,
        start=config.decide.start,
        headers=(),
        decoders=decoders,
        encoder=encoder,
        output_decoders=output_decoders(config.wire, _PUBLISHED),
        limits=replace(config.limits, max_payload_bytes=max(config.limits.max_payload_bytes, MOST_BYTES)),
        memory=state_options(config),
        state_keys=state_keys(config),
        hooks=process.metrics,
        sides=LEARNS,
        settle_s=config.learn.settle_s,
    )
