"""events → seen → one stage an entity → decide → decisions, labelled outcomes, alerts; unusable → dead-letters."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import bytewax.operators as op
import msgspec
from bytewax.dataflow import Dataflow, Stream
from bytewax.inputs import Source

from flows.durable import Barrier
from flows.epochs import Epochs
from flows.publish import (
    ALERTS,
    DEAD_LETTERS,
    DECISIONS,
    LABELLED_OUTCOMES,
    FileSink,
    OpenSlot,
    Publication,
    alert_identity,
    dead_letter_identity,
    decision_identity,
    labelled_identity,
)
from flows.stage import EVERY, PASS, OpenStore, Part, Stage, run_stage
from flows.stats import RunStats
from operators.decide import Decide
from operators.entity import Entity
from operators.features import EntitySpec
from operators.inflight import ALERT, DEAD_LETTER, LABEL, OUTCOME, PAYMENT, TICK, InFlight
from operators.seen import Seen
from operators.step import Step
from schemas.codec import encode_json
from schemas.positions import told_place
from schemas.redact import redact
from state.shards import shard_of

ROUTE: Final = "route"
ENCODE: Final = "encode"
PUBLISH: Final = "publish"
"""What takes time beside the steps, by the names under which it is counted."""

Attach = Callable[[Stream[Part], Stream[Part]], None]


def build(
    source: Source[Part],
    seen: Seen,
    entities: Sequence[tuple[EntitySpec, Entity]],
    decide: Decide,
    open_store: OpenStore,
    open_slot: OpenSlot | None,
    shards: tuple[str, ...],
    stats: RunStats,
    epochs: Epochs,
    *,
    in_order: bool,
    barrier: Barrier | None = None,
    attach: Attach | None = None,
) -> Dataflow:
    """The production graph, over whatever source and outputs it is given.

    Args:
        source: Parts of ingested events, each numbered as a batch of one part.
        seen: First step.
        entities: The entities' steps, in the feature set's order.
        decide: Last step; where it learns it runs over a single shard.
        open_store: Opens a step's store in a shard at a version.
        open_slot: Opens an output file's slot at a snapshot; None: the outputs are attached.
        shards: Names of the shards.
        stats: Where stages report to.
        epochs: Of this process.
        in_order: Keep the order of arrival between stages; True only with one worker.
        barrier: Makes state durable at each epoch's end; None: nothing is to outlive the process.
        attach: Adds outputs of another kind, given the streams of parts that enter the flow and that leave the last
            step; the model does not learn then, so payments are decided in the shards of their transactions.
    """
    flow = Dataflow("weir")
    parts = entered = op.input("events", flow, source)
    for stage in stages(seen, entities, decide, shards, learns=attach is None):
        own, routing = stats.stage(stage.step.name), stats.stage(ROUTE)
        parts = run_stage(parts, stage, open_store, own, routing, epochs, in_order=in_order)
    if open_slot is not None:
        encoded = op.flat_map("encode", parts, _Encode(stats))
        op.output("publish", encoded, FileSink(open_slot))
    if attach is not None:
        attach(entered, parts)
    if barrier is not None:
        barrier.attach(entered, parts)
    return flow


def stages(
    seen: Seen,
    entities: Sequence[tuple[EntitySpec, Entity]],
    decide: Decide,
    shards: tuple[str, ...],
    *,
    learns: bool = True,
) -> list[Stage]:
    """The steps in order, with the routes to their shards."""
    made = [Stage(_step(seen), _route_by_transaction(len(shards)), shards)]
    made += [
        Stage(_step(entity), _route_by_key(spec.index, entity.kinds, len(shards)), shards) for spec, entity in entities
    ]
    if learns:
        made.append(Stage(_step(decide), _route_to_one, shards[:1]))
    else:
        made.append(Stage(_step(decide), _route_payments(len(shards)), shards))
    return made


def _step(step: Step) -> Step:
    return step


def _route_by_transaction(count: int) -> Callable[[InFlight], int]:
    def route(item: InFlight) -> int:
        if item.kind in (PAYMENT, OUTCOME):
            event: Any = item.event
            return shard_of(event.transaction_id.encode(), count)
        return EVERY if item.kind == TICK else PASS

    return route


def _route_payments(count: int) -> Callable[[InFlight], int]:
    def route(item: InFlight) -> int:
        if item.kind != PAYMENT:
            return PASS  # a label has no more to do: the model learns elsewhere
        event: Any = item.event
        return shard_of(event.transaction_id.encode(), count)

    return route


def _route_by_key(index: int, kinds: frozenset[int], count: int) -> Callable[[InFlight], int]:
    def route(item: InFlight) -> int:
        if item.kind not in kinds or item.duplicate:
            return PASS
        key = item.keys[index]
        return PASS if key is None else shard_of(key, count)

    return route


def _route_to_one(item: InFlight) -> int:
    return 0 if item.kind in (PAYMENT, LABEL, TICK) else PASS


class _Encode:
    """Makes publications of what the last step puts out, one list a slot and batch."""

    def __init__(self, stats: RunStats) -> None:
        self._stats = stats

    def __call__(self, part: Part) -> Iterable[tuple[str, list[Publication]]]:
        """Called by bytewax for each part of the last step."""
        started = time.perf_counter()
        out = self._encode(part)
        self._stats.stage(ENCODE).observe(time.perf_counter() - started, len(part.work))
        return out

    def _encode(self, part: Part) -> list[tuple[str, list[Publication]]]:
        events = part.work
        if part.skip:
            events = sorted(part.work + part.skip, key=lambda item: item.order)
        decisions: list[Publication] = []
        labelled: list[Publication] = []
        dead: list[Publication] = []
        alerts: list[Publication] = []
        count = self._stats.count
        observer = self._stats.observer
        for item in events:
            detail: Any = item.detail
            seen_at_us = item.ingested_at_us
            if item.kind == PAYMENT:
                event: Any = item.event
                identity = decision_identity(event.transaction_id)
                if item.duplicate:
                    count("duplicates", "retry")
                    if observer is not None:
                        observer.duplicate()
                    decisions.append(Publication(identity, b"", seen_at_us))
                else:
                    count("decisions", detail["action"])
                    if observer is not None:
                        observer.decision(detail)
                    decisions.append(Publication(identity, encode_json("decision", detail), seen_at_us))
            elif item.kind == LABEL:
                count("labelled_outcomes", detail["label"])
                if observer is not None:
                    observer.labelled(detail)
                line = encode_json("labelled_outcome", detail)
                identity = labelled_identity(detail["transaction_id"], detail["source"], detail["event_time"])
                labelled.append(Publication(identity, line, seen_at_us))
            elif item.kind == ALERT:
                count("alerts", detail["kind"])
                if observer is not None:
                    observer.alert(detail)
                alerts.append(Publication(alert_identity(detail["alert_id"]), encode_json("alert", detail), seen_at_us))
            elif item.kind == DEAD_LETTER:
                count("dead_letters", detail[0])
                topic, partition, offset = item.origin
                if observer is not None:
                    observer.dead_letter(topic, detail[0])
                line = encode_json("dead_letter", dead_letter(item))
                dead.append(Publication(dead_letter_identity(topic, partition, offset), line, seen_at_us))
        slots = ((DECISIONS, decisions), (LABELLED_OUTCOMES, labelled), (DEAD_LETTERS, dead), (ALERTS, alerts))
        return [(slot, records) for slot, records in slots if records or part.wake]


def dead_letter(item: InFlight) -> dict[str, Any]:
    """The dead letter of an event, a mapping of the contract; its `detail` is (reason, detail, payload or event)."""
    detail: Any = item.detail
    reason, text, payload = detail
    raw = payload if isinstance(payload, bytes) else msgspec.json.encode(payload)
    return {
        **told_place(*item.origin),
        "event_time": getattr(payload, "event_time_us", None),
        "reason": reason,
        "detail": text,
        "payload": redact(raw),
        "seen_at": item.ingested_at_us,
    }


def slot_path(out: Path, slot: str) -> Path:
    """The file of an output slot."""
    return out / f"{slot}.jsonl"
