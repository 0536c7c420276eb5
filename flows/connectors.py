"""The kind of a stream's URL → who reads and writes it: flows/stream_api.py says what all of them do.

A process has one reader for its inputs, so they are all of one kind (flows/live_options.py refuses others); its outputs
may be of several kinds (flows/mixed_publish.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from flows.kafka_client import one_cluster
from flows.kafka_prepare import KafkaQuestions
from flows.kafka_publish import Publisher as KafkaPublisher
from flows.kafka_source import Reader as KafkaReader
from flows.kafka_source import SourceState
from flows.kafka_transactions import fence_gone
from flows.live_options import LiveOptions
from flows.memory_streams import MemoryPublisher, MemoryQuestions, MemoryReader
from flows.mixed_publish import MixedPublisher, MixedQuestions, SharedHooks
from flows.source import Run
from flows.stream_api import Publisher, Questions, Reader
from flows.streams import KafkaStream, KinesisStream, MemoryStream, Stream
from schemas.errors import ConfigError

S = TypeVar("S")


def questions_of(side: str, streams: Mapping[str, Stream], options: LiveOptions, run: Run) -> Questions:
    """Who is asked about the topics of a side.

    Raises:
        ConfigError: The streams cannot be asked by one client.
    """
    kinds = _kinds(streams)
    if len(kinds) > 1:
        return MixedQuestions(
            {
                stream.topic: asked
                for own in kinds
                for asked in (questions_of(side, own, options, run),)
                for stream in own.values()
            }
        )
    kinesis = _only(streams, KinesisStream)
    if kinesis:
        from flows.kinesis_prepare import KinesisQuestions  # noqa: PLC0415  # boto3 loads long, for who has a use for it

        return KinesisQuestions(side, kinesis.values(), options, run)
    memory = _only(streams, MemoryStream)
    if memory:
        return MemoryQuestions(list(memory.values()), options)
    return KafkaQuestions(side, _only(streams, KafkaStream).values(), options, run)


def open_reader(
    streams: Mapping[str, Stream],
    options: LiveOptions,
    start: SourceState,
    run: Run,
    committed: Callable[[], Mapping[str, SourceState]],
) -> Reader:
    """The reader of the inputs.

    Args:
        streams: By input.
        options: Of the flow.
        start: Where all inputs stand.
        run: Its pulse is told of waits.
        committed: What the recovery store holds of all processes' inputs now.

    Raises:
        StreamPositionError: A log does not hold what the state wants.
        StreamError: A stream cannot be read.
    """
    kinesis = _only(streams, KinesisStream)
    if kinesis:
        from flows.kinesis_source import KinesisReader  # noqa: PLC0415  # as above

        return KinesisReader(options, list(kinesis.values()), start, run, committed)
    memory = _only(streams, MemoryStream)
    if memory:
        return MemoryReader(options, list(memory.values()), start)
    names = [stream.topic for stream in streams.values()]
    return KafkaReader(options, one_cluster("inputs", _only(streams, KafkaStream).values()), names, start, run)


def open_publisher(
    streams: Mapping[str, Stream], options: LiveOptions, run: Run, manifest: Mapping[str, Any]
) -> Publisher:
    """The publisher of the outputs; with Kafka, transactional ids of earlier starts are fenced first.

    Args:
        streams: By output.
        options: Of the flow.
        run: Its pulse is told of waits.
        manifest: Of the state folder.

    Raises:
        ConfigError: Transactions are asked for where there are none.
        StreamError: A stream cannot be written.
    """
    kinesis, memory = _only(streams, KinesisStream), _only(streams, MemoryStream)
    if options.transactional and (kinesis or memory):
        found = "Kinesis, which" if kinesis else "memory://, which"
        message = f"decide.transactional is true: expected outputs on Kafka, found {found} has no transactions"
        raise ConfigError(message)
    kinds = _kinds(streams)
    if len(kinds) > 1:
        shared = SharedHooks(options.hooks, len(kinds))
        return MixedPublisher(
            {
                output: publisher
                for number, own in enumerate(kinds)
                for publisher in (open_publisher(own, replace(options, hooks=shared.of(number)), run, manifest),)
                for output in own
            }
        )
    if memory:
        return MemoryPublisher(options, memory)
    if kinesis:
        from flows.kinesis_publish import KinesisPublisher  # noqa: PLC0415  # as above

        return KinesisPublisher(options, kinesis, run)
    topics = {name: stream.topic for name, stream in streams.items()}
    brokers = one_cluster("outputs", _only(streams, KafkaStream).values())
    fence_gone(options, manifest, brokers, run)
    return KafkaPublisher(options, brokers, topics, run)


def _kinds(streams: Mapping[str, Stream]) -> list[dict[str, Stream]]:
    """The streams of each kind, kinds in the order in which they come first."""
    found: dict[type[Stream], dict[str, Stream]] = {}
    for name, stream in streams.items():
        found.setdefault(type(stream), {})[name] = stream
    return list(found.values())


def _only(streams: Mapping[str, Stream], kind: type[S]) -> dict[str, S]:
    return {name: stream for name, stream in streams.items() if isinstance(stream, kind)}
