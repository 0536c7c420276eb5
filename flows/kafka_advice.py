"""What an error of a Kafka cluster means, and what to do when it will not have us: for commands that ask it once."""

from __future__ import annotations

from typing import Final

# Part of librdkafka's reason, in lower case, or the name of its code → what it means and what to do. The first that
# fits is told: the causes of a TLS failure come before the code that every one of them has.
_ADVICE: Final = (
    # librdkafka says the same of an unknown authority and of a name that is not in the certificate.
    (
        "certificate verify failed",
        "the broker's certificate is not from a known authority (set `ca_file` to its file), or is not for this host "
        "name or address (use one that stands in it)",
    ),
    ("hostname", "the broker's certificate is not for this host name: use a name that stands in it"),
    ("certificate required", "the broker asks for a certificate of ours: set `certificate_file` and `key_file`"),
    ("connecting to a plaintext listener", "the listener has no TLS: set `protocol` to its own, or another port"),
    ("unsupported sasl mechanism", "the broker does not offer this `mechanism`: set one it does"),
    ("_authentication", "the broker refuses username or password: check `username`, its password and `mechanism`"),
    ("sasl authentication", "the broker refuses username or password: check `username`, its password and `mechanism`"),
    ("topic_authorization_failed", "the user may not use this topic: grant it Read or Write and Describe by an ACL"),
    ("group_authorization_failed", "the user may not use this consumer group: grant it Read by an ACL"),
    ("cluster_authorization_failed", "the user may not do this on the cluster: grant it the operation by an ACL"),
    ("transactional_id_authorization_failed", "the user may not use this transactional id: grant it Write by an ACL"),
    ("_ssl", "TLS failed: check `protocol`, `ca_file`, `certificate_file` and `key_file` of [kafka.security]"),
    ("_resolve", "the host's name is not known: check the address"),
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
