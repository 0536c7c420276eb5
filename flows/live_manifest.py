"""What a live flow's state folder says of itself, and where its topics stood before it began.

    manifest.json   format, shards, hashes and keys, as a replay's has them (flows/state_manifest.py), and
                    streams   stream -> topic
                    inputs    topic -> partition -> offset at which it was begun
                    outputs   topic -> partition -> end offset before the first record of ours
                    transactional_ids   all that processes of this flow have published under, if any

It is durable before anything is read or published, so a flow that is killed before its first commit begins at the same
records again and knows from where on its output may hold decisions of its own. A partition that neither manifest nor
state knows was added later: it is read from its first record on.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from bytewax.recovery import init_db_dir
from confluent_kafka import OFFSET_END, Consumer, KafkaException, TopicPartition

from flows.kafka_client import ASK_S, Offsets, bounds_of, partitions_of
from flows.kafka_transactions import own_ids
from flows.live_options import EARLIEST, LATEST, LiveOptions, Start
from flows.profile import Profile
from flows.state_manifest import FORMAT, carried_on, check_format, own_entries
from flows.streams import Stream
from schemas.errors import ConfigError
from state.backup import refuse_half_restored

MANIFEST: Final = "manifest.json"


def load_offsets(manifest: Mapping[str, Any], side: str) -> Offsets:
    """`inputs` or `outputs` of a manifest; JSON has no numbers as keys."""
    return {
        topic: {int(partition): offset for partition, offset in found.items()}
        for topic, found in manifest[side].items()
    }


def prepare_state(
    profile: Profile,
    options: LiveOptions,
    inputs: Mapping[str, Stream],
    outputs: Mapping[str, Stream],
    began: Callable[[str, Start], dict[int, int]],
    ends: Callable[[str], dict[int, int]],
) -> dict[str, Any]:
    """Make the state folder, or see that it belongs to this flow; safe to call from all processes at once.

    Args:
        profile: The profile.
        options: Of the flow.
        inputs: Streams read.
        outputs: Streams written.
        began: Offsets at which a topic is begun, asked of its broker.
        ends: End offsets of a topic, likewise.

    Returns:
        The manifest.

    Raises:
        ConfigError: The folder belongs to another flow.
        StateError: Another release or another key wrote it.
    """
    state = options.state
    try:
        state.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"state {state}: cannot be made ({error.strerror}: {error.filename})"
        raise ConfigError(message) from error
    with _alone(options):
        refuse_half_restored(state)
        wanted = {
            "shards": options.shards,
            "pan_keys": options.tokeniser.identity_check if options.tokeniser else None,
            "outputs_of": {name: stream.topic for name, stream in outputs.items()},
        }
        path = state / MANIFEST
        if path.is_file():
            found = json.loads(path.read_text())
            check_format(found, state)
            for key, value in wanted.items():
                if found.get(key) != value:
                    message = (
                        f"state {state}: it belongs to another flow: {key} was {found.get(key)!r}, is now {value!r}; "
                        "give the same configuration, or a new state folder"
                    )
                    raise ConfigError(message)
            own = carried_on(found, profile.features, options.state_keys, state, f"{profile.name}/features.toml")
            changed = {**found, **own}
        else:
            recovery = state / "recovery"
            shutil.rmtree(recovery, ignore_errors=True)  # what a start that died before its manifest may have left
            recovery.mkdir(parents=True)
            init_db_dir(recovery, 1)  # type: ignore[no-untyped-call]  # native, without stubs
            own = own_entries(profile.features, options.state_keys)
            placed = {stream.topic: ends(stream.topic) for stream in outputs.values()}
            found = {}
            changed = {"format": FORMAT, **wanted, **own, "inputs": {}, "outputs": placed}
        begun = dict(changed["inputs"])
        for name, stream in inputs.items():
            if stream.topic not in begun:
                begun[stream.topic] = began(stream.topic, options.start.get(name, EARLIEST))
        changed["inputs"] = begun
        changed["policy"] = profile.policy.hash
        ids = {*found.get("transactional_ids", ()), *own_ids(options)}
        if ids:
            changed["transactional_ids"] = sorted(ids)
        if changed != found:
            _write(options, changed)
        return dict(json.loads(path.read_text()))


@contextmanager
def _alone(options: LiveOptions) -> Iterator[None]:
    with (options.state / "prepare.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write(options: LiveOptions, content: Mapping[str, Any]) -> None:
    path = options.state / MANIFEST
    written = path.with_suffix(".new")
    with written.open("w") as out:
        json.dump(content, out, indent=1)
        out.flush()
        os.fsync(out.fileno())
    written.rename(path)
    folder = os.open(options.state, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def begin_at(client: Consumer, topic: str, start: Start) -> dict[int, int]:
    """Offsets at which a topic is begun.

    Raises:
        KafkaException: No broker answers, or there is no such topic.
    """
    count = partitions_of(client, [topic])[topic]
    bounds = {number: bounds_of(client, topic, number) for number in range(count)}
    if start == EARLIEST:
        return {number: low for number, (low, _) in bounds.items()}
    if start == LATEST:
        return {number: high for number, (_, high) in bounds.items()}
    wanted = [TopicPartition(topic, number, int(start) // 1_000) for number in bounds]
    placed = {}
    for found in client.offsets_for_times(wanted, timeout=ASK_S):
        if found.error is not None:
            raise KafkaException(found.error)
        # Nothing was appended then or later: the end, where the next record will stand.
        placed[found.partition] = bounds[found.partition][1] if found.offset in (OFFSET_END, -1) else found.offset
    return placed


def ends_of(client: Consumer, topic: str) -> dict[int, int]:
    """End offsets of a topic's partitions.

    Raises:
        KafkaException: No broker answers, or there is no such topic.
    """
    return begin_at(client, topic, LATEST)
