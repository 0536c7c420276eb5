"""Every error Weir raises on purpose, as one tree.

WeirError
├── ConfigError        a file, key or value the operator gave is wrong: the start is refused
│   ├── ProfileError       features.toml, policy.toml or learning.toml
│   └── SecretError        a key is missing, too short or unreadable
├── ContractError      a record broke its contract: it becomes a dead letter, the flow goes on
├── StateError         what is on disk cannot be trusted or used: the shard stops
│   ├── StateVersionError  the version asked for is not kept
│   ├── StateLayoutError   the directory was written by another layout
│   ├── StateLockedError   another process holds the shard
│   └── BackupError        a backup is torn or damaged, or its target cannot be used
├── StreamError        an input or output cannot be used: retried, then said
│   ├── StreamPositionError  a log does not hold the offset that the state wants: the start is refused
│   ├── StreamMissingError   a topic does not exist: the start is refused
│   └── StreamFencedError    another process has taken this one's place: it ends, and stays ended
└── PeerError          another process of the cluster is gone: this one ends, all are started again
"""


class WeirError(Exception):
    """Base of all errors that Weir raises on purpose; its message says where, expected, found and what to do."""


class ConfigError(WeirError):
    """A configuration is refused; the message names file, key, value and what was expected."""


class ProfileError(ConfigError):
    """A profile (features, policy, learning) is refused."""


class SecretError(ConfigError):
    """A key is missing, too short or unreadable; the message never holds the key."""


class ContractError(WeirError):
    """A record breaks its contract.

    Attributes:
        reason: Stable code from `schemas.reasons`, for the dead letter.
        detail: What was expected and found, already free of card numbers.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class StateError(WeirError):
    """State on disk cannot be trusted or used."""


class StateVersionError(StateError):
    """The version asked for is not kept; restore a backup that holds it."""


class StateLayoutError(StateError):
    """The state directory was written by a layout this program does not read."""


class StateLockedError(StateError):
    """Another process holds the shard."""


class BackupError(StateError):
    """A backup is torn or damaged, or where it is kept cannot be used; the message names backup and file."""


class StreamError(WeirError):
    """An input or output cannot be used."""


class StreamPositionError(StreamError):
    """A log does not hold the offset that the state wants; starting again cannot help."""


class StreamMissingError(StreamError):
    """A topic does not exist; starting again cannot help."""


class StreamFencedError(StreamError):
    """Another process publishes in this one's place; starting again would fence that one in turn."""


class PeerError(WeirError):
    """Another process of the cluster is gone."""
