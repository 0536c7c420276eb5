"""deploy/iam grants what the code asks AWS for, and nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from flows.learn import LEARNS
from flows.live_options import DECIDES, MODELS


def _statements(root: Path, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((root / "deploy" / "iam" / name).read_text())["Statement"]
    return found


def test_the_policy_grants_the_calls_that_the_connector_makes(root: Path) -> None:
    called: set[str] = set()
    for module in sorted((root / "flows").glob("kinesis_*.py")):
        called |= set(re.findall(r"client(?:s\[\w+\])?\.([a-z_]+)\(", module.read_text()))
    wanted = {"kinesis:" + "".join(word.capitalize() for word in name.split("_")) for name in called}
    for name in ("weir-decide.json", "weir-learn.json"):
        by_name = {one["Sid"]: set(one["Action"]) for one in _statements(root, name)}
        assert by_name["WriteOutputsAndReadThemBack"] == wanted
        assert by_name["ReadInputs"] == wanted - {"kinesis:PutRecords"}


def test_the_policies_name_the_streams_of_each_command(root: Path) -> None:
    def streams(name: str, sid: str) -> set[str]:
        (statement,) = (one for one in _statements(root, name) if one["Sid"] == sid)
        return {one.rpartition("stream/")[2].replace("-", "_") for one in statement["Resource"]}

    assert streams("weir-decide.json", "ReadInputs") == set(DECIDES.inputs)
    assert streams("weir-decide.json", "WriteOutputsAndReadThemBack") == set(DECIDES.outputs)
    assert streams("weir-learn.json", "ReadInputs") == set(LEARNS.inputs) - {MODELS}  # which is Kafka's
    assert streams("weir-learn.json", "WriteOutputsAndReadThemBack") == set(LEARNS.outputs) - set(LEARNS.optional)


def test_no_policy_grants_whole_services_or_everything(root: Path) -> None:
    for path in sorted((root / "deploy" / "iam").glob("*.json")):
        for statement in _statements(root, path.name):
            actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
            assert not [action for action in actions if "*" in action], path.name
            assert statement.get("Resource") != "*", path.name
