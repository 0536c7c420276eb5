"""Labels of the replay report: the latest outcome counts, whatever the file."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import fastavro
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.report_labels import Labels, read_labels
from tests.flows.report_runs import outcome, write_lines


@pytest.mark.parametrize("suffix", ["jsonl", "avro", "parquet"])
def test_the_latest_outcome_by_event_time_is_the_label_in_every_format(tmp_path: Path, suffix: str) -> None:
    records = [
        outcome(0, "genuine", days=9),  # stands before the fraud it takes back
        outcome(0, "fraud", days=5),
        outcome(1, "fraud", days=5),
        outcome(1, "genuine", days=4),
        outcome(2, "genuine", days=3),
        outcome(3, "fraud", days=6),
        outcome(3, "genuine", days=7),
        outcome(3, "fraud", days=8),
        outcome(4, "unsure", days=8),
        outcome(5, "fraud", days=9),
        outcome(5, "genuine", days=8),
        outcome(5, "fraud", days=7),
    ]
    path = tmp_path / f"outcomes.{suffix}"
    if suffix == "jsonl":
        path.write_text("\n".join(json.dumps(record) for record in records) + "\nnot json\n")
    else:
        rows = [record | {"event_time": datetime.fromisoformat(record["event_time"])} for record in records]
        if suffix == "parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        else:
            schema = json.loads((Path(__file__).parents[2] / "schemas/contracts/outcome.avsc").read_text())
            schema["fields"] = [field for field in schema["fields"] if field["name"] in rows[0]]
            for field in schema["fields"]:
                if field["name"] == "label":
                    field["type"] = "string"  # one record carries a label the contract does not know
            with path.open("wb") as file:
                fastavro.writer(file, schema, rows)
    labels = read_labels(tmp_path, tmp_path)
    assert labels == Labels(path.name, frozenset({"t1", "t3", "t5"}), unreadable=2 if suffix == "jsonl" else 1)


def test_labels_that_the_replay_joined_serve_where_the_outcomes_are_not_at_hand(tmp_path: Path) -> None:
    write_lines(tmp_path / "labelled_outcomes.jsonl", [outcome(0), outcome(1, "genuine")])
    assert read_labels(None, tmp_path).fraud == {"t0"}
    (tmp_path / "events").mkdir()
    assert read_labels(tmp_path / "events", tmp_path).source == "labelled_outcomes.jsonl"
