"""A real Apache Kafka (KRaft, one node, loopback) with TLS, SCRAM and ACLs, from its Maven Central jars."""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

VERSION = "3.9.1"
PASSWORD = "correct horse"  # noqa: S105 - of a broker that lives for one test run
POM = """<project><modelVersion>4.0.0</modelVersion><groupId>weir</groupId><artifactId>kafka</artifactId>
<version>1</version><dependencies><dependency><groupId>org.apache.kafka</groupId>
<artifactId>kafka_2.13</artifactId><version>{version}</version></dependency><dependency>
<groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>{version}</version></dependency>
<dependency><groupId>org.slf4j</groupId>
<artifactId>slf4j-nop</artifactId><version>1.7.36</version></dependency></dependencies></project>"""


def jars() -> Path:
    """The broker's jars, fetched once; skips without Java or Maven unless WEIR_REQUIRE names kafka."""
    required = "kafka" in os.environ.get("WEIR_REQUIRE", "")
    folder = Path(os.environ.get("WEIR_KAFKA_JARS") or Path.home() / ".cache" / "weir" / f"kafka-{VERSION}")
    if not (folder / f"kafka-tools-{VERSION}.jar").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "pom.xml").write_text(POM.format(version=VERSION))
        command = ["mvn", "-q", "-B", "-f", str(folder / "pom.xml"), "dependency:copy-dependencies"]
        try:
            subprocess.run([*command, f"-DoutputDirectory={folder}"], check=True, capture_output=True, timeout=300)
        except (OSError, subprocess.SubprocessError) as error:
            if required:
                raise
            pytest.skip(f"no Apache Kafka: Maven does not fetch it ({type(error).__name__})")
    if shutil.which("java") is None:
        assert not required, "WEIR_REQUIRE names kafka, and there is no java"
        pytest.skip("no Apache Kafka: java is not installed")
    return folder


@dataclass(frozen=True)
class Node:
    plain: str
    secure: str
    misnamed: str
    ca: Path
    jars: Path

    def java(self, *words: str, timeout: float = 60) -> bytes:
        done = subprocess.run(
            ["java", "-Xmx256m", "-cp", f"{self.jars}/*", *words],
            capture_output=True,
            timeout=timeout,
            check=False,
        )
        return done.stdout + done.stderr


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def certificates(folder: Path) -> tuple[Path, Path]:
    """A CA of our own, the broker's key and certificate by it, for `localhost` and 127.0.0.1 only, and a client's."""
    now = dt.datetime.now(dt.UTC)

    def make(subject: str, issuer: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        def name(text: str) -> x509.Name:
            return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

        return (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(name(issuer))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=2))
        )

    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca = make("weir test ca", "weir test ca", ca_key).add_extension(x509.BasicConstraints(True, None), critical=True)
    ca_certificate = ca.sign(ca_key, hashes.SHA256())
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = make("localhost", "weir test ca", key).add_extension(names, critical=False)
    signed = certificate.sign(ca_key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(ca_certificate.public_bytes(pem))
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "broker.pem").write_bytes(secret + signed.public_bytes(pem))
    own = ec.generate_private_key(ec.SECP256R1())
    client = make("weir", "weir test ca", own).sign(ca_key, hashes.SHA256())
    (folder / "client.pem").write_bytes(client.public_bytes(pem))
    secret = own.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "client.key").write_bytes(secret)
    return folder / "ca.pem", folder / "broker.pem"


@contextmanager
def kafka_node(folder: Path) -> Iterator[Node]:
    where = jars()
    ca, keystore = certificates(folder)
    plain, secure, misnamed, controller = free_port(), free_port(), free_port(), free_port()
    scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    (folder / "server.properties").write_text(
        f"""process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAIN://127.0.0.1:{plain},SECURE://127.0.0.1:{secure},MISNAMED://127.0.0.2:{misnamed},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAIN://127.0.0.1:{plain},SECURE://127.0.0.1:{secure},MISNAMED://127.0.0.2:{misnamed}
listener.security.protocol.map=PLAIN:PLAINTEXT,SECURE:SASL_SSL,MISNAMED:SASL_SSL,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAIN
controller.listener.names=CONTROLLER
sasl.enabled.mechanisms=SCRAM-SHA-256
listener.name.secure.scram-sha-256.sasl.jaas.config={scram}
listener.name.misnamed.scram-sha-256.sasl.jaas.config={scram}
ssl.keystore.type=PEM
ssl.keystore.location={keystore}
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
log.dirs={folder}/log
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
"""
    )
    node = Node(f"127.0.0.1:{plain}", f"127.0.0.1:{secure}", f"127.0.0.2:{misnamed}", ca, where)
    user = f"SCRAM-SHA-256=[name=weir,password={PASSWORD}]"
    config = str(folder / "server.properties")
    node.java("kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qg", "-c", config, "--add-scram", user)
    with (folder / "kafka.log").open("wb") as log:
        words = ["java", "-Xmx384m", "-cp", f"{where}/*", "kafka.Kafka", config]
        process = subprocess.Popen(words, stdout=log, stderr=log)
        try:
            limit = time.monotonic() + 60
            while True:
                try:
                    socket.create_connection(("127.0.0.1", secure), 0.2).close()
                    break
                except OSError:
                    assert process.poll() is None, (folder / "kafka.log").read_text()[-2000:]
                    assert time.monotonic() < limit, "Kafka does not listen after 60 s"
                    time.sleep(0.2)
            yield node
        finally:
            process.kill()
            process.wait()
