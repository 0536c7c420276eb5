"""How a Kafka cluster is reached, and what to do when it will not have us."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from schemas.errors import ConfigError, SecretError

PROTOCOLS: Final = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
MECHANISMS: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")


@dataclass(frozen=True, slots=True)
class KafkaSecurity:
    """Security of a connection.

    Attributes:
        protocol: One of `PROTOCOLS`.
        ca: File of the authorities that the brokers' certificates are checked against; None: the system's.
        cert: File of our certificate, for mutual TLS, with `key`.
        key: File of its private key.
        key_password: Of the private key, if it has one.
        mechanism: One of `MECHANISMS`, for the SASL protocols.
        username: For PLAIN and SCRAM.
        password: For PLAIN and SCRAM; `read_secret` gets it from a file or the environment.
        token_endpoint: For OAUTHBEARER: URL that hands out tokens (OIDC client credentials).
        client_id: For OAUTHBEARER.
        client_secret: For OAUTHBEARER.
        scope: For OAUTHBEARER, if the endpoint wants one.
    """

    protocol: str = "PLAINTEXT"
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    key_password: str | None = field(default=None, repr=False)
    mechanism: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    token_endpoint: str | None = None
    client_id: str | None = None
    client_secret: str | None = field(default=None, repr=False)
    scope: str | None = None

    def __post_init__(self) -> None:
        """Refuse what librdkafka would only fail on later, or worse, quietly ignore."""
        if self.protocol not in PROTOCOLS:
            self._refuse("protocol", self.protocol, f"one of {', '.join(PROTOCOLS)}")
        sasl, tls = self.protocol.startswith("SASL"), self.protocol.endswith("SSL")
        if sasl and self.mechanism not in MECHANISMS:
            self._refuse("mechanism", self.mechanism, f"one of {', '.join(MECHANISMS)}")
        if not sasl and self.mechanism is not None:
            self._refuse("mechanism", self.mechanism, "none: the protocol is not one of SASL")
        if (self.cert is None) != (self.key is None):
            self._refuse("cert and key", (self.cert, self.key), "both, or neither")
        for name in ("ca", "cert", "key"):
            path = getattr(self, name)
            if path is not None and not tls:
                self._refuse(name, path, "none: the protocol has no TLS")
            if path is not None and not Path(path).is_file():
                self._refuse(name, path, "a file that can be read")
        if self.mechanism == "OAUTHBEARER":
            needed: tuple[str, ...] = ("token_endpoint", "client_id", "client_secret")
        else:
            needed = ("username", "password") if sasl else ()
        missing = [name for name in needed if not getattr(self, name)]
        if missing:
            message = f"kafka security: {self.mechanism} needs {', '.join(needed)}; missing: {', '.join(missing)}"
            raise ConfigError(message)

    @staticmethod
    def _refuse(name: str, found: object, expected: str) -> None:
        message = f"kafka security: {name}: expected {expected}, found {found!r}"
        raise ConfigError(message)

    def properties(self) -> dict[str, Any]:
        """What librdkafka is told, for producers, consumers and admin clients alike."""
        told = {
            "security.protocol": self.protocol,
            "ssl.ca.location": self.ca,
            "ssl.certificate.location": self.cert,
            "ssl.key.location": self.key,
            "ssl.key.password": self.key_password,
            "sasl.mechanism": self.mechanism,
            "sasl.username": self.username,
            "sasl.password": self.password,
        }
        if self.protocol.endswith("SSL"):
            told["ssl.endpoint.identification.algorithm"] = "https"  # the broker's name must stand in its certificate
        if self.mechanism == "OAUTHBEARER":
            told |= {
                "sasl.oauthbearer.method": "oidc",
                "sasl.oauthbearer.token.endpoint.url": self.token_endpoint,
                "sasl.oauthbearer.client.id": self.client_id,
                "sasl.oauthbearer.client.secret": self.client_secret,
                "sasl.oauthbearer.scope": self.scope,
            }
        return {key: value for key, value in told.items() if value is not None}


def read_secret(name: str, file: str | None, environment: Mapping[str, str], variable: str) -> str | None:
    """A secret from a file, or else from an environment variable; None: neither is given.

    Raises:
        SecretError: The file cannot be read, or is empty.
    """
    if file is None:
        return environment.get(variable) or None
    try:
        secret = Path(file).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        message = f"{name}: {file!r} cannot be read ({type(error).__name__}); expected a file with the secret alone"
        raise SecretError(message) from error
    if not secret:
        message = f"{name}: {file!r} is empty; expected the secret alone"
        raise SecretError(message)
    return secret


# Part of librdkafka's reason, in lower case, or the name of its code → what it means and what to do. The first that
# fits is told: the causes of a TLS failure come before the code that every one of them has.
_ADVICE: Final = (
    # librdkafka says the same of an unknown authority and of a name that is not in the certificate.
    (
        "certificate verify failed",
        "the broker's certificate is not from a known authority (set `ca` to its file), or is not for this host name "
        "or address (use one that stands in it)",
    ),
    ("hostname", "the broker's certificate is not for this host name: use a name that stands in it"),
    ("certificate required", "the broker asks for a certificate of ours: set `cert` and `key`"),
    ("connecting to a plaintext listener", "the listener has no TLS: set `protocol` to its own, or another port"),
    ("unsupported sasl mechanism", "the broker does not offer this `mechanism`: set one it does"),
    ("_authentication", "the broker refuses username or password: check `username`, its password and `mechanism`"),
    ("sasl authentication", "the broker refuses username or password: check `username`, its password and `mechanism`"),
    ("topic_authorization_failed", "the user may not use this topic: grant it Read or Write and Describe by an ACL"),
    ("group_authorization_failed", "the user may not use this consumer group: grant it Read by an ACL"),
    ("cluster_authorization_failed", "the user may not do this on the cluster: grant it the operation by an ACL"),
    ("transactional_id_authorization_failed", "the user may not use this transactional id: grant it Write by an ACL"),
    ("_ssl", "TLS failed: check `protocol`, `ca`, `cert` and `key`"),
    ("_resolve", "the host's name is not known: check `brokers`"),
    ("_all_brokers_down", "no broker answers: is the cluster up, and are address, port and `protocol` right?"),
    ("_transport", "no broker answers: is the cluster up, and are address, port and `protocol` right?"),
)


def explain(code: str, reason: str) -> str:
    """What a Kafka error means and what to do, as a sentence.

    Args:
        code: Name of its code, as `KafkaError.name()`.
        reason: Its text, as `KafkaError.str()`; it holds addresses, never secrets.
    """
    text = reason.lower()
    advice = next((advice for sign, advice in _ADVICE if sign in text or sign == code.lower()), None)
    return f"kafka: {code}: {reason}" + (f"; {advice}" if advice else "")
