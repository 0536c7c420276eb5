"""The learning loop as a user of AWS runs it: all streams on Kinesis but models.v1, by one weir.toml, in bare Avro."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import orjson

from flows.kinesis_records import unwrapped, wrapped
from load_tests.kinesis_local import KinesisLocal, Tail
from schemas.codec import decode_json_mapping
from tests.flows.kinesis_node import kinesis
from tests.flows.learning_loop import STREAMS, Loop
from tests.flows.live import kill, stop, wait_until
from tests.flows.test_learning_loop import _rescored, _taught

__all__ = ["kinesis"]


class KinesisLoop(Loop):
    """A weir.toml over streams of a test's own."""

    def __init__(self, server: KinesisLocal, bootstrap: str, directory: Path) -> None:
        super().__init__(bootstrap, directory, "avro")
        self._client = server.client
        text = self.path.read_text().replace('settle = "300ms"', 'settle = "2s"')
        for name in STREAMS:
            topic, stream = self.topics[name], f"{name.replace('_', '-')}-{uuid.uuid4().hex[:8]}"
            server.make(stream)
            self.topics[name] = stream
            text = text.replace(f"kafka://{bootstrap}/{topic}", server.url(stream, 200))
        self.path.write_text(text)
        self._tails = {name: Tail(server.client, self.topics[name]) for name in STREAMS}

    def _send(self, stream: str, contract: str, key: str, records: list[dict[str, Any]]) -> None:
        told = []
        for one in records:
            value, headers = self.encoder(contract, decode_json_mapping(contract, orjson.dumps(one)))
            told.append({"PartitionKey": one[key], "Data": wrapped(value, headers)})
        assert not self._client.put_records(StreamName=self.topics[stream], Records=told)["FailedRecordCount"]

    def read(self, stream: str, contract: str) -> list[dict[str, Any]]:
        if stream not in self._tails:
            return super().read(stream, contract)
        found = []
        for _, record in self._tails[stream].look():
            payload = self._decoders[stream](*unwrapped(record["Data"]))
            found.append(decode_json_mapping(contract, payload) if isinstance(payload, bytes) else payload)
        return found


def test_labels_and_models_reach_decisions_over_kinesis_also_when_both_are_killed(
    kinesis: KinesisLocal, kafka: str, tmp_path: Path
) -> None:
    loop = KinesisLoop(kinesis, kafka, tmp_path)
    running = [loop.start("decide"), loop.start("learn")]
    first = _taught(loop, running)
    kill(running)
    running = [loop.start("decide"), loop.start("learn")]
    latest: list[dict[str, Any]] = []

    def scored() -> bool:
        paid = loop.pay(1, account_id=first[0]["account_id"])
        wait_until(running, loop.decided(paid))
        latest.append(loop.decisions()[paid[0]["transaction_id"]])
        return latest[-1]["score"] is not None

    wait_until(running, scored)
    decision = latest[-1]
    assert decision["versions"]["model_hash"] in {one["sha256"] for one in loop.releases()}
    assert _rescored(loop, decision) == decision["score"]
    stop(running)
    labelled = loop.read("labelled_outcomes", "labelled_outcome")
    told = [(one["transaction_id"], one["source"], one["event_time"]) for one in labelled]
    assert {one["transaction_id"] for one in first[:40]} <= {name for name, source, _ in told if source == "chargeback"}
    assert len(told) == len(set(told))
    assert not loop._tails["dead_letters"].look()
    assert "Traceback" not in loop.log("decide") + loop.log("learn")
