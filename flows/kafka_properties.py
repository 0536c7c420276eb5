"""weir.toml's [kafka] and [kafka.security] as properties of librdkafka, the same for source, sink and checks."""

from __future__ import annotations

from typing import Any, Final

from flows.config import Config, SecuritySection

_PROTOCOLS: Final = {"plaintext": "plaintext", "tls": "ssl", "sasl": "sasl_plaintext", "sasl_tls": "sasl_ssl"}


def kafka_properties(config: Config, brokers: str) -> dict[str, Any]:
    """Properties by which a client of Weir connects. Holds secrets: hand it to a client, and nowhere else.

    Args:
        config: weir.toml.
        brokers: HOST:PORT, several separated by commas.
    """
    return {
        **config.kafka,
        **security_properties(config.security),
        "bootstrap.servers": brokers,
        "client.id": "weir",
    }


def security_properties(security: SecuritySection) -> dict[str, Any]:
    """The properties that [kafka.security] stands for."""
    found: dict[str, Any] = {
        "ssl.ca.location": security.ca_file,
        "ssl.certificate.location": security.certificate_file,
        "ssl.key.location": security.key_file,
        "ssl.key.password": security.key_password.value if security.key_password else None,
        "sasl.mechanisms": security.mechanism.upper() if security.mechanism else None,
        "sasl.username": security.username,
        "sasl.password": security.password.value if security.password else None,
    }
    if security.mechanism == "oauthbearer":
        found |= {
            "sasl.oauthbearer.method": "oidc",
            "sasl.oauthbearer.token.endpoint.url": security.token_endpoint,
            "sasl.oauthbearer.client.id": security.client_id,
            "sasl.oauthbearer.client.secret": security.client_secret.value if security.client_secret else None,
            "sasl.oauthbearer.scope": security.scope,
            "https.ca.location": security.ca_file,  # of the token endpoint
        }
    if not security.check_hostname:
        found["ssl.endpoint.identification.algorithm"] = "none"
    told = {name: str(value) for name, value in found.items() if value is not None}
    return {"security.protocol": _PROTOCOLS[security.protocol], **told}
