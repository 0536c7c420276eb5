"""`weir state` on the folder of a flow that runs over topics, and a flow gone on from its backup."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

from state.backup import backup_ids
from state.object_store import ObjectStore
from tests.flows.live import STARTED, Feed, Live, caught_up, check_published, kill, stop, wait_until
from tests.flows.test_live_process import free_ports
from tests.flows.traffic import write_profile
from tests.kafka import make_topic


def _weir(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "state", *words], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_state_of_a_live_flow_is_inspected_verified_backed_up_and_gone_on_from(kafka: str, tmp_path: Path) -> None:
    live = Live(kafka, tmp_path, write_profile(tmp_path / "profile"), partitions=2)
    state, backups = live.told["state"], f"file://{tmp_path}/backups"
    with Feed(live, rate=100) as feed:
        running = live.start(2)
        wait_until(running, lambda: len(live.decisions()) > 100)
        told = json.loads(_weir("inspect", "--state", state, "--json"))
        assert len(told["shards"]) == 4
        steps = {step["step"]: step for shard in told["shards"] for step in shard["steps"]}
        assert {"seen", "account", "decide", "ledger"} <= steps.keys()
        assert sum(steps["ledger"]["records"].values()) > 0
        assert "4 shards" in _weir("verify", "--state", state)
        assert "backup " in _weir("backup", "--state", state, "--to", backups)
        before = len(live.decisions())
        wait_until(running, lambda: len(live.decisions()) > before + 100)  # published behind the backup
        feed.end()
    kill(running)
    shutil.rmtree(state)
    restored = _weir("restore", "--from", backups, "--state", state)
    assert "the flow resumes at epoch" in restored
    running = live.start()
    wait_until(running, caught_up(live))
    stop(running)
    check_published(live, feed.sent)


class Configured:
    """A flow by a weir.toml that encrypts its state and backs it up every second, over topics of its own."""

    def __init__(self, bootstrap: str, directory: Path, processes: int) -> None:
        streams = ("transactions", "labelled_outcomes", "decisions", "dead_letters")
        topics = "\n".join(f'{name} = "kafka://{bootstrap}/{make_topic(bootstrap, name, 2)}"' for name in streams)
        write_profile(directory / "profile")
        secret = base64.b64encode(bytes(range(32))).decode()
        (directory / "keys.toml").write_text(f'active = "a"\n[keys.a]\nsecret = "{secret}"\n')
        self.backups = directory / "backups"
        self.backups.mkdir()
        self.url = f"file://{self.backups}"
        self.port = free_ports(processes)
        self._path = directory / "weir.toml"
        self._path.write_text(
            f'profile = "profile"\n[streams]\n{topics}\n[state]\nfolder = "state"\nshards = 2\n'
            f'keys_file = "keys.toml"\nbackup_to = "{self.url}"\nbackup_every = "1s"\nbackup_keep = 2\n'
            f'[cluster]\nprocesses = {processes}\n[metrics]\nport = {self.port}\n[decide]\nepoch = "200ms"\n'
            '[log]\nformat = "json"\n'
        )

    def start(self) -> subprocess.Popen[str]:
        """Start it and wait for its first backup."""
        words = [sys.executable, "-m", "flows.cli", "decide", "--config", str(self._path)]
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        STARTED.append(process)
        wait_until([process], lambda: backup_ids(ObjectStore(self.url)))
        return process

    def backups_counted(self) -> float:
        """Of those made, by process 0's metrics."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            found = re.search(r'weir_backups_total\{outcome="made"\} (\S+)', answer.read().decode())
        return float(found[1]) if found else 0.0


def test_a_flow_backs_itself_up_as_weir_toml_says_and_counts_it(kafka: str, tmp_path: Path) -> None:
    flow = Configured(kafka, tmp_path, 1)
    running = flow.start()
    wait_until([running], flow.backups_counted)
    stop([running])
    newest = json.loads(_weir("backups", "--from", flow.url, "--json"))[-1]
    assert newest["epoch"] > 0
    assert "whole" in _weir("verify", "--from", flow.url)


def test_a_cluster_is_backed_up_by_the_process_that_started_it_and_a_failure_is_a_line_of_its_log(
    kafka: str, tmp_path: Path
) -> None:
    flow = Configured(kafka, tmp_path, 2)
    running = flow.start()
    flow.backups.rename(tmp_path / "moved")
    flow.backups.write_text("no folder")
    told = ""
    assert running.stderr is not None
    while "backup_failed" not in told:
        told = running.stderr.readline()
        assert told, "it ended before it told"
    line = json.loads(told)
    assert (line["level"], line["logger"], line["next_in_s"]) == ("error", "weir.backups", 1.0)
    assert str(flow.backups) in line["error"]
    assert flow.backups_counted() == 0, "docs/metrics.md: who makes the backups of a cluster serves no metrics"
    stop([running])
