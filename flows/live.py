"""topics → merged by arrival → the decide graph → decisions; the unusable → dead-letters. Without an end.

The same graph as a replay's. What differs: payments are decided in the shards of their transactions, since the model
learns in a flow of its own; labelled outcomes come in as a topic; the outputs are topics with a ledger.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from bytewax._bytewax import cli_main
from bytewax.recovery import RecoveryConfig

from flows.connectors import open_publisher, open_reader, questions_of
from flows.control import ControlServer
from flows.decide import PUBLISH
from flows.epochs import Epochs
from flows.exits import deadly
from flows.kafka_sink import KafkaSink, Outputs, Slot, SlotState
from flows.kafka_source import KafkaSource, LivePart, SourceState, merged_state, source_name
from flows.live_graph import DecideGraph, LiveGraph
from flows.live_manifest import load_offsets, prepare_state
from flows.live_options import LiveOptions
from flows.profile import Profile
from flows.recovery import read_recovery, recovery_file
from flows.replay import calm_collector, engine_error
from flows.source import Run
from flows.state_owner import own_state
from flows.state_stats import state_figures
from flows.streams import Stream
from operators.record_formats import format_of
from state.api import StepStore
from state.shards import shard_names
from state.store import StateHome

__all__ = ["LiveOptions", "prepare_live", "run_live"]


def run_live(profile: Profile, options: LiveOptions, run: Run, graph: LiveGraph | None = None) -> None:
    """Decide until `run.stop` is set; `run.finished` stays False, since a stream has no end.

    Args:
        profile: The profile.
        options: Of the flow.
        run: Of this process.
        graph: The flow's steps; None: those of `weir decide`, without announced models.

    Raises:
        ConfigError: Streams, topics or the state folder cannot be used.
        StateError: The state cannot be resumed, or another run has it.
        StreamError: A stream cannot be read or written.
    """
    with own_state(options.state, options.number, options.process[1] if options.process else ()):
        _run_live(profile, options, run, graph or DecideGraph(profile, options, run.stats, _now_us))


def _run_live(profile: Profile, options: LiveOptions, run: Run, graph: LiveGraph) -> None:
    inputs, outputs = options.streams()
    manifest = prepare_live(profile, options, run)
    options.hooks.set_ready("state", False, "the shards are not open yet")
    home = StateHome(options.state / "shards", options.memory, options.state_keys, format_of)
    options.hooks.opened(lambda: state_figures(home))
    try:
        _execute(options, run, graph, home, manifest, inputs, outputs)
        run.state = state_figures(home)
    finally:
        options.hooks.opened(lambda: run.state)  # the last figures: closed shards cannot be asked
        home.close()


def prepare_live(profile: Profile, options: LiveOptions, run: Run) -> dict[str, Any]:
    """Make the state folder, or see that it belongs to this flow; returns its manifest. Waits for the brokers.

    Raises:
        ConfigError: Streams, topics or the state folder cannot be used.
        StreamError: A stream cannot be read or written.
    """
    inputs, outputs = options.streams()
    with ExitStack() as stack:
        of_inputs = questions_of("inputs", inputs, options, run)
        stack.callback(of_inputs.close)
        of_outputs = questions_of("outputs", outputs, options, run)
        stack.callback(of_outputs.close)
        return prepare_state(profile, options, inputs, outputs, of_inputs.began, of_outputs.ends)


def _execute(
    options: LiveOptions,
    run: Run,
    graph: LiveGraph,
    home: StateHome,
    manifest: dict[str, Any],
    inputs: dict[str, Stream],
    outputs: dict[str, Stream],
) -> None:
    in_order = options.process is None
    epochs = Epochs()
    shards = shard_names(options.shards)
    known: dict[str, SourceState] = read_recovery(recovery_file(options.state)).sources
    topics = {name: stream.topic for name, stream in outputs.items()}
    publisher = open_publisher(outputs, options, run, manifest)
    slots = Outputs(
        publisher,
        options.encoder,
        topics,
        home.sync,
        run,
        run.stats.stage(PUBLISH),
        epochs,
        may_overtake=not in_order,
        inputs=frozenset(stream.topic for stream in inputs.values()),
    )

    @deadly
    def open_store(shard: str, step: str, version: int | None) -> StepStore:
        run.pulse.beat(f"opening step {step} of shard {shard}")
        return home.open(shard, step, version)

    def open_slot(shard: str, resumed: SlotState | None) -> Slot:
        run.pulse.beat(f"opening the ledger of shard {shard}")
        ledger = home.open(shard, "ledger", resumed["version"] if resumed else None)
        ends = resumed["ends"] if resumed else load_offsets(manifest, "outputs")
        return Slot(slots, ledger, ends, graph.remembered_us)

    def committed() -> Mapping[str, SourceState]:
        return read_recovery(recovery_file(options.state)).sources

    def open_part() -> LivePart:
        run.pulse.beat("opening the inputs")
        start = merged_state(known, load_offsets(manifest, "inputs"))
        reader = open_reader(inputs, options, start, run, committed)
        # Counted on from this process's own state: numbers order the events of a process only.
        sequence = known[name]["sequence"] if (name := source_name(options.number)) in known else 0
        return LivePart(reader, graph.ingest(inputs, start, sequence), options, run, epochs)

    sink = KafkaSink(shards, options.number, options.processes, slots, open_slot)
    encode = graph.encode(shards)
    flow = graph.build(
        KafkaSource(options, known, open_part),
        manifest,
        open_store,
        shards,
        epochs,
        lambda entered, decided: sink.attach(entered, decided, encode),
    )
    recovery = RecoveryConfig(options.state / "recovery")  # type: ignore[no-untyped-call]  # native, without stubs
    calm_collector()
    addresses = options.process[1] if options.process else ()
    options.hooks.set_ready("state", True, "the folder is ours")
    with ControlServer(options.state, home, options.number, options.processes):
        try:
            cli_main(  # type: ignore[no-untyped-call]  # native, without stubs
                flow,
                workers_per_process=1,
                process_id=options.number if options.process else None,
                addresses=list(addresses) or None,
                epoch_interval=options.epoch,
                recovery_config=recovery,
            )
        except BaseException as error:  # a panic of the engine is no Exception
            told = engine_error(error, options.state, options.number, addresses)
            if told is error:
                raise
            raise told from error
    home.sync()


def _now_us() -> int:
    return time.time_ns() // 1_000
