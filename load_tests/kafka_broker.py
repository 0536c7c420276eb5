"""A real Apache Kafka, one KRaft node on loopback, from its Maven Central jars; for tests and `make live`.

    with KafkaBroker(directory) as broker:
        broker.bootstrap                       # 127.0.0.1:PORT

The jars are fetched once, by Maven, into the user's cache (XDG_CACHE_HOME/weir/kafka). A broker keeps its log
directory and its ports when it is stopped, killed and started again.

    python -m load_tests.kafka_broker DIRECTORY [--port PORT]      runs one until Ctrl-C
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

from load_tests.stand_ins import fetched, free_ports

VERSION: Final = "4.0.0"
"""Of Kafka; its brokers need Java 17."""
HEAP: Final = "-Xmx512m"
START_S: Final = 90.0
STOP_S: Final = 30.0
_ARTIFACTS: Final = (
    ("org.apache.kafka", "kafka_2.13", VERSION),
    ("org.apache.kafka", "kafka-tools", VERSION),  # the console consumer
    ("org.slf4j", "slf4j-simple", "1.7.36"),  # or the broker says nothing when it fails
)
_MARK: Final = "complete"


class BrokerError(Exception):
    """No broker can be had; the message says what is missing."""


def kafka_jars() -> Path:
    """Folder of Kafka's jars, fetched with Maven when they are not there yet.

    Raises:
        BrokerError: Java or Maven is missing, or the download failed.
    """
    for tool, package in (("java", "openjdk-17-jre-headless"), ("mvn", "maven")):
        if shutil.which(tool) is None:
            message = f"Apache Kafka needs {tool}, found none on PATH; apt-get install {package}"
            raise BrokerError(message)
    with fetched("kafka") as cache:
        jars = cache / VERSION
        if not (jars / _MARK).exists():
            _download(cache, jars)
    return jars


def _download(cache: Path, jars: Path) -> None:
    wanted = "".join(
        f"<dependency><groupId>{group}</groupId><artifactId>{name}</artifactId><version>{version}</version></dependency>"
        for group, name, version in _ARTIFACTS
    )
    with tempfile.TemporaryDirectory(dir=cache) as made:
        project = Path(made)
        (project / "pom.xml").write_text(
            '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
            "<groupId>weir</groupId><artifactId>kafka-jars</artifactId><version>1</version>"
            f"<dependencies>{wanted}</dependencies></project>"
        )
        command = ["mvn", "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={project / 'jars'}"]
        done = subprocess.run(
            [*command, "-DincludeScope=runtime"], cwd=project, capture_output=True, text=True, check=False
        )
        if done.returncode:
            message = f"Maven could not fetch Kafka {VERSION}: {(done.stdout + done.stderr).strip()[-1500:]}"
            raise BrokerError(message)
        shutil.rmtree(jars, ignore_errors=True)
        (project / "jars").rename(jars)
        (jars / _MARK).touch()


def java_command(main: str, *arguments: str, options: Sequence[str] = (HEAP,)) -> list[str]:
    """Command line that runs a class of Kafka's jars, such as org.apache.kafka.tools.consumer.ConsoleConsumer."""
    quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
    # C1 alone: two cores start a broker in half the time, and tests end before C2 would pay.
    return ["java", *options, "-XX:TieredStopAtLevel=1", quiet, "-cp", f"{kafka_jars()}/*", main, *arguments]


class KafkaBroker:
    """One broker and controller in one process.

    Attributes:
        directory: Its log directory, configuration and output.
        port: Of the plain listener on 127.0.0.1.
        bootstrap: Address for clients.
    """

    def __init__(
        self,
        directory: Path,
        properties: Mapping[str, str] | None = None,
        port: int | None = None,
        users: Mapping[str, str] | None = None,
    ) -> None:
        """Prepare; `start` starts it.

        Args:
            directory: Empty, or of an earlier broker.
            properties: Further server properties, which win over ours.
            port: Of the plain listener; default: a free one.
            users: Password by name, of those who may log in by SCRAM-SHA-256 from the first start on.
        """
        self.directory = directory
        self.port, self.controller_port = free_ports(2)
        if port is not None:
            self.port = port
        self.bootstrap = f"127.0.0.1:{self.port}"
        self._properties = dict(properties or {})
        self._users = dict(users or {})
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the Java process, while it runs."""
        if self._process is None:
            message = "the broker does not run"
            raise BrokerError(message)
        return self._process.pid

    def start(self) -> None:
        """Start, and wait until it answers clients.

        Raises:
            BrokerError: It ended or did not answer in time; with the end of its output.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        config = self.directory / "server.properties"
        data = self.directory / "data"
        config.write_text("".join(f"{key}={value}\n" for key, value in self._all_properties(data).items()))
        if not (data / "meta.properties").exists():
            identity = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
            arguments = ["format", f"--cluster-id={identity}", "-c", str(config)]  # it may begin with a dash
            for name, password in self._users.items():
                arguments += ["--add-scram", f"SCRAM-SHA-256=[name={name},password={password}]"]
            done = subprocess.run(
                java_command("kafka.tools.StorageTool", *arguments), capture_output=True, text=True, check=False
            )
            if done.returncode:
                message = f"Kafka's storage tool failed: {(done.stdout + done.stderr).strip()[-1500:]}"
                raise BrokerError(message)
        with (self.directory / "broker.log").open("ab") as output:
            self._process = subprocess.Popen(
                java_command("kafka.Kafka", str(config)), stdout=output, stderr=output, start_new_session=True
            )
        self._wait()

    def _all_properties(self, data: Path) -> dict[str, str]:
        return {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@127.0.0.1:{self.controller_port}",
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{self.controller_port}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self.port}",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": str(data),
            "auto.create.topics.enable": "false",
            "offsets.topic.num.partitions": "1",
            "offsets.topic.replication.factor": "1",
            "transaction.state.log.num.partitions": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            "log.retention.check.interval.ms": "1000",
            "log.segment.delete.delay.ms": "100",
            **self._properties,
        }

    def _wait(self) -> None:
        from confluent_kafka import KafkaException  # noqa: PLC0415  # not for those who only want the jars
        from confluent_kafka.admin import AdminClient  # noqa: PLC0415

        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if self._process is not None and self._process.poll() is not None:
                message = f"Kafka ended with {self._process.returncode}: {self.output()[-2000:]}"
                raise BrokerError(message)
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 0.2):
                client = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
                with contextlib.suppress(KafkaException):
                    if client.list_topics(timeout=2).brokers:
                        return
            time.sleep(0.1)
        message = f"Kafka did not answer within {START_S:g} s: {self.output()[-2000:]}"
        raise BrokerError(message)

    def output(self) -> str:
        """All it wrote so far."""
        log = self.directory / "broker.log"
        return log.read_text(errors="replace") if log.exists() else ""

    def stop(self) -> None:
        """End it in order; by force when that takes too long."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a crash would."""
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        process = self._process
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._process = None

    def restart(self) -> None:
        """Stop and start on the same log directory and ports."""
        self.stop()
        self.start()

    def __enter__(self) -> KafkaBroker:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


def main() -> None:
    """Run a broker until it is told to stop."""
    parser = argparse.ArgumentParser(description="Apache Kafka, one node on loopback")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--port", type=int, default=9092)
    given = parser.parse_args()
    try:
        with KafkaBroker(given.directory, port=given.port) as broker:
            sys.stdout.write(f"{broker.bootstrap}\n")
            sys.stdout.flush()
            with contextlib.suppress(KeyboardInterrupt):
                signal.pause()
            broker.stop()
    except BrokerError as error:
        message = f"kafka_broker: {error}"
        raise SystemExit(message) from error


if __name__ == "__main__":
    main()
