"""topics → merged by arrival → the decide graph → decisions; the unusable → dead-letters. Without an end."""

from __future__ import annotations

from flows.live_options import LiveOptions
from flows.profile import Profile
from flows.source import Run

__all__ = ["LiveOptions", "run_live"]


def run_live(profile: Profile, options: LiveOptions, run: Run) -> None:
    """Decide until `run.stop` is set; `run.finished` stays False, since a stream has no end.

    Raises:
        ConfigError: Streams, topics or the state folder cannot be used.
        StateError: The state cannot be resumed.
        StreamError: A stream cannot be read or written.
    """
    raise NotImplementedError(profile.name, options.group, run)
