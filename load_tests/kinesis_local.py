"""A stand-in for Kinesis, kinesis-local of npm, on loopback; for tests, `make chaos-kinesis` and `make bench-kinesis`.

    with KinesisLocal(directory) as kinesis:
        kinesis.endpoint                       # http://127.0.0.1:PORT
        kinesis.url("payments")                # kinesis://payments?region=...&endpoint=...&poll_ms=250

It splits, merges, ends closed shards and lists their children as AWS does; it keeps records in memory, refuses nothing
for its rate, and lets no record age out (tests/flows/kinesis_proxy.py does both). It is slow: an empty read costs it
some 20 ms, a record put or read 1 to 4 ms, so nothing measured against it says what AWS would do.
The package is fetched once, by npm and the lock file beside, into the user's cache (XDG_CACHE_HOME/weir/kinesis).
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from load_tests.stand_ins import fetched, free_ports

HERE: Final = Path(__file__).resolve().parent / "kinesis"
VERSION: Final = "0.6.2"
REGION: Final = "eu-west-1"
START_S: Final = 60.0
CREDENTIALS: Final = {"AWS_ACCESS_KEY_ID": "weir-test", "AWS_SECRET_ACCESS_KEY": "not-a-secret"}
"""The stand-in takes any."""
_MARK: Final = "complete"
_QUICK: Final = ("CREATE_STREAM", "DELETE_STREAM", "SPLIT_SHARD", "MERGE_SHARDS")


class KinesisError(Exception):
    """No stand-in can be had; the message says what is missing."""


def kinesis_package() -> Path:
    """Folder of the package, fetched with npm when it is not there yet.

    Raises:
        KinesisError: Node or npm is missing, or the download failed.
    """
    for tool in ("node", "npm"):
        if shutil.which(tool) is None:
            message = f"kinesis-local needs {tool}, found none on PATH; apt-get install nodejs npm"
            raise KinesisError(message)
    with fetched("kinesis") as cache:
        folder = cache / VERSION
        folder.mkdir(exist_ok=True)
        if not (folder / _MARK).exists():
            for name in ("package.json", "package-lock.json"):
                shutil.copy(HERE / name, folder / name)
            words = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
            done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
            if done.returncode:
                message = f"npm could not fetch kinesis-local {VERSION}: {(done.stdout + done.stderr).strip()[-1500:]}"
                raise KinesisError(message)
            (folder / _MARK).touch()
    return folder / "node_modules" / "kinesis-local"


class KinesisLocal:
    """One stand-in.

    Attributes:
        endpoint: Its URL.
        client: A client of it.
    """

    def __init__(self, directory: Path) -> None:
        """Prepare; `start` starts it.

        Args:
            directory: For its output.
        """
        self._directory = directory
        self._port, self._tls_port = free_ports(2)
        self.endpoint = f"http://127.0.0.1:{self._port}"
        self.client = client_at(self.endpoint)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and wait until it answers.

        Raises:
            KinesisError: It ended or did not answer in time; with the end of its output.
        """
        package = kinesis_package()
        self._directory.mkdir(parents=True, exist_ok=True)
        told: Mapping[str, str] = {
            "KINESIS_MOCK_PLAIN_PORT": str(self._port),
            "KINESIS_MOCK_TLS_PORT": str(self._tls_port),
            "LOG_LEVEL": "ERROR",
            "SHARD_LIMIT": "10000",
            **{f"{name}_DURATION": "10ms" for name in _QUICK},
        }
        log = self._directory / "kinesis.log"
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                ["node", "--max-old-space-size=1024", "--require", str(HERE / "loopback.cjs"), "main.js"],
                cwd=package,
                env={**os.environ, **told},
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        until = time.monotonic() + START_S
        while True:
            try:
                self.client.list_streams()
            except (BotoCoreError, ClientError):
                if self._process.poll() is not None or time.monotonic() > until:
                    self.kill()
                    message = f"kinesis-local does not answer: {log.read_text(errors='replace')[-1500:]}"
                    raise KinesisError(message) from None
                time.sleep(0.1)
            else:
                return

    def url(self, name: str, poll_ms: int = 250) -> str:
        """The URL of a stream."""
        return f"kinesis://{name}?region={REGION}&endpoint={self.endpoint}&poll_ms={poll_ms}"

    def make(self, name: str, shards: int = 1) -> None:
        """Make a stream, and wait until it can be used."""
        self.client.create_stream(StreamName=name, ShardCount=shards)
        wait_active(self.client, name)

    def kill(self) -> None:
        """SIGKILL it; all that its streams held is gone."""
        if self._process is not None:
            if self._process.poll() is None:
                os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def __enter__(self) -> KinesisLocal:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


def client_at(endpoint: str) -> Any:
    """A client of a stand-in, or of what stands before it."""
    return boto3.client(
        "kinesis",
        region_name=REGION,
        endpoint_url=endpoint,
        aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        config=Config(retries={"total_max_attempts": 1}, max_pool_connections=32),
    )


def wait_active(client: Any, name: str) -> None:
    """Wait until a stream may be read, written and resharded."""
    until = time.monotonic() + START_S
    while True:
        told = client.describe_stream_summary(StreamName=name)["StreamDescriptionSummary"]["StreamStatus"]
        if told == "ACTIVE":
            return
        if time.monotonic() > until:
            message = f"stream {name} is {told} after {START_S:g} s"
            raise KinesisError(message)
        time.sleep(0.02)


def open_shards(client: Any, name: str) -> list[dict[str, Any]]:
    """The shards that are written to, in the order of their hash keys."""
    shards = client.list_shards(StreamName=name)["Shards"]
    found = [one for one in shards if "EndingSequenceNumber" not in one["SequenceNumberRange"]]
    return sorted(found, key=lambda one: int(one["HashKeyRange"]["StartingHashKey"]))


def split(client: Any, name: str, number: int = 0) -> None:
    """Split the open shard of that place in the middle."""
    shard = open_shards(client, name)[number]
    low, high = (int(shard["HashKeyRange"][f"{side}HashKey"]) for side in ("Starting", "Ending"))
    client.split_shard(StreamName=name, ShardToSplit=shard["ShardId"], NewStartingHashKey=str((low + high) // 2))
    wait_active(client, name)


def merge(client: Any, name: str, number: int = 0) -> None:
    """Merge the open shard of that place with the next."""
    shards = open_shards(client, name)
    one, other = shards[number]["ShardId"], shards[number + 1]["ShardId"]
    client.merge_shards(StreamName=name, ShardToMerge=one, AdjacentShardToMerge=other)
    wait_active(client, name)


class Tail:
    """Reads a stream from its first record on, all shards; each look goes on where the last one stopped."""

    def __init__(self, client: Any, name: str) -> None:
        self.records: list[tuple[int, dict[str, Any]]] = []
        self._client = client
        self._name = name
        self._iterators: dict[int, str | None] = {}

    def look(self) -> list[tuple[int, dict[str, Any]]]:
        """(number of the shard, record) of everything so far, those of a shard in order."""
        client, name = self._client, self._name
        for shard in client.list_shards(StreamName=name)["Shards"]:
            number = int(shard["ShardId"][-12:])
            if number not in self._iterators:
                told = client.get_shard_iterator(
                    StreamName=name, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
                )
                self._iterators[number] = told["ShardIterator"]
            while iterator := self._iterators[number]:
                answer = client.get_records(ShardIterator=iterator)
                self.records += [(number, record) for record in answer["Records"]]
                self._iterators[number] = answer.get("NextShardIterator")
                if not answer["MillisBehindLatest"]:
                    break
        return self.records
