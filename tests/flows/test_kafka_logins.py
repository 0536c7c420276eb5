"""`weir decide` over a real broker that asks for a certificate, a password or a token; and what it says without."""

from __future__ import annotations

import base64
import json
import random
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import orjson
import pytest

from load_tests.stand_ins import free_ports
from tests.certificates import certificates
from tests.flows.traffic import payment, write_profile
from tests.kafka import make_topic, own_broker, read_all, send

PASSWORD = "correct horse"  # noqa: S105 - of a broker that lives for one test run
SECRET = "battery staple"  # noqa: S105 - likewise
WAIT_S = 90.0
TOPICS = ("transactions", "decisions", "labelled_outcomes", "dead_letters")
LOGIN = "org.apache.kafka.common.security"


@dataclass(frozen=True)
class Secured:
    plain: str
    address: dict[str, str]
    folder: Path
    token_endpoint: str


class _Tokens(BaseHTTPRequestHandler):
    """Hands out unsigned tokens (RFC 7519, alg none), which the broker's validator for tests takes."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        given = base64.b64decode(self.headers["Authorization"].partition(" ")[2]).decode()
        known = given == f"weir:{SECRET}"
        now = time.time()
        claims = {"sub": "weir", "iat": now, "exp": now + 3_600}
        token = f"{_b64({'alg': 'none'})}.{_b64(claims)}."
        told = (
            {"access_token": token, "token_type": "bearer", "expires_in": 3_600}
            if known
            else {"error": "invalid_client"}
        )
        body = json.dumps(told).encode()
        self.send_response(200 if known else 401)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def _b64(content: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("secured")
    ca, keystore = certificates(folder)
    names = ("MTLS", "PASSWORD", "TOKEN", "PLAINTEXT", "CONTROLLER")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    places = {name: f"{name}://127.0.0.1:{port}" for name, port in ports.items()}
    login = f'{LOGIN}.plain.PlainLoginModule required user_weir="{PASSWORD}";'
    bearer = f'{LOGIN}.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker";'
    properties = {
        "listeners": ",".join(places.values()),
        "advertised.listeners": ",".join(place for name, place in places.items() if name != "CONTROLLER"),
        "controller.quorum.voters": f"1@127.0.0.1:{ports['CONTROLLER']}",
        "listener.security.protocol.map": (
            "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,MTLS:SSL,PASSWORD:SASL_SSL,TOKEN:SASL_SSL"
        ),
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(keystore),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(ca),
        "listener.name.mtls.ssl.client.auth": "required",
        "listener.name.password.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.password.plain.sasl.jaas.config": login,
        "listener.name.token.sasl.enabled.mechanisms": "OAUTHBEARER",
        "listener.name.token.oauthbearer.sasl.jaas.config": bearer,
    }
    broker = own_broker(folder / "kafka", properties, ports["PLAINTEXT"])
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Tokens)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(keystore)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = {name: f"127.0.0.1:{port}" for name, port in ports.items()}
    try:
        yield Secured(broker.bootstrap, address, folder, f"https://127.0.0.1:{server.server_port}/token")
    finally:
        server.shutdown()
        server.server_close()
        broker.kill()


def _security(secured: Secured, how: str, secret: Path) -> str:
    ca = f'ca_file = "{secured.folder / "ca.pem"}"\n'
    if how == "MTLS":
        own = f'certificate_file = "{secured.folder / "client.pem"}"\nkey_file = "{secured.folder / "client.key"}"\n'
        return f'protocol = "tls"\n{ca}{own}'
    if how == "PASSWORD":
        return (
            f'protocol = "sasl_tls"\n{ca}mechanism = "plain"\nusername = "weir"\npassword = {{ file = "{secret}" }}\n'
        )
    return (
        f'protocol = "sasl_tls"\n{ca}mechanism = "oauthbearer"\ntoken_endpoint = "{secured.token_endpoint}"\n'
        f'client_id = "weir"\nclient_secret = {{ file = "{secret}" }}\n'
    )


def _start(secured: Secured, directory: Path, how: str, security: str) -> tuple[subprocess.Popen[bytes], str, str]:
    topics = {name: make_topic(secured.plain, name, 2) for name in TOPICS}
    streams = "\n".join(f'{name} = "kafka://{secured.address[how]}/{topic}"' for name, topic in topics.items())
    profile = write_profile(directory / "profile")
    config = directory / "weir.toml"
    config.write_text(
        f'profile = "{profile}"\n[streams]\n{streams}\n[wire]\nformat = "json"\n[state]\nfolder = "state"\nshards = 1\n'
        f"[metrics]\nport = 0\n[kafka.security]\n{security}"
    )
    words = [sys.executable, "-m", "flows.cli", "decide", "--config", str(config)]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log)
    return process, topics["transactions"], topics["decisions"]


@pytest.mark.parametrize(("how", "secret"), [("MTLS", ""), ("PASSWORD", PASSWORD), ("TOKEN", SECRET)])
def test_payments_are_decided_over_a_secured_listener(secured: Secured, tmp_path: Path, how: str, secret: str) -> None:
    (tmp_path / "secret").write_text(secret)
    process, transactions, decisions = _start(secured, tmp_path, how, _security(secured, how, tmp_path / "secret"))
    log = tmp_path / "log"
    try:
        rng, now = random.Random(1), datetime.now(UTC)
        sent = [payment(rng, number, now) for number in range(20)]
        send(secured.plain, transactions, [(b"a", orjson.dumps(one)) for one in sent])
        until = time.monotonic() + WAIT_S
        while len(found := read_all(secured.plain, decisions)) < len(sent):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, "not decided in time"
            time.sleep(0.2)
        decided = [orjson.loads(one.value() or b"")["transaction_id"] for one in found]
        assert sorted(decided) == sorted(str(one["transaction_id"]) for one in sent)
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_S) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()
    assert not secret or secret not in log.read_text()


@pytest.mark.parametrize("how", ["PASSWORD", "TOKEN"])
def test_a_login_that_fails_says_what_to_do_and_shows_no_secret(secured: Secured, tmp_path: Path, how: str) -> None:
    (tmp_path / "secret").write_text("not the secret")
    process, _, _ = _start(secured, tmp_path, how, _security(secured, how, tmp_path / "secret"))
    try:
        assert process.wait(WAIT_S) != 0
    finally:
        process.kill()
        process.wait()
    told = (tmp_path / "log").read_text()
    assert "user, password, token or certificate were refused; correct [kafka.security]" in told, told
    assert "Traceback" not in told, told
    assert "not the secret" not in told
