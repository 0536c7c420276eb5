"""Where streams of Kinesis begin and end, asked before a live flow's state folder is made."""

from __future__ import annotations

from collections.abc import Iterable

from flows.kinesis_client import KinesisWatch, asked, client_of
from flows.kinesis_shards import FIRST, Places, StreamFacts, facts_of, from_time
from flows.live_options import EARLIEST, LATEST, LiveOptions, Start
from flows.source import Run
from flows.streams import KinesisStream


class KinesisQuestions:
    """Asks Kinesis about the streams of one side, and waits for it."""

    def __init__(self, side: str, streams: Iterable[KinesisStream], options: LiveOptions, run: Run) -> None:
        """Connect.

        Args:
            side: inputs or outputs.
            streams: Of that side.
            options: Of the flow.
            run: Its pulse is told of every wait.

        Raises:
            ConfigError: There is no region, or no such profile.
        """
        self._streams = {stream.topic: stream for stream in streams}
        self._watch = KinesisWatch(side, ", ".join(self._streams), options.hooks)
        self._run = run

    def _facts(self, topic: str) -> StreamFacts:
        stream = self._streams[topic]
        client = client_of(stream)
        run = self._run
        return asked(lambda: facts_of(client, stream.name), self._watch, run.pulse, topic, run.stop.is_set)

    def began(self, topic: str, start: Start) -> Places:
        """Places at which a stream's shards are begun; shards made later are begun at their first record.

        EARLIEST is TRIM_HORIZON. LATEST is the present by AWS's clock, in whole seconds, and as durable as a time that
        is given: a flow killed before its first commit begins there again.

        Raises:
            StreamError: The stream cannot be read.
        """
        facts = self._facts(topic)
        if start == EARLIEST:
            return dict.fromkeys(facts.shards, FIRST)
        ms = facts.now_ms if start == LATEST else int(start) // 1_000
        return dict.fromkeys(facts.shards, from_time(ms))

    def ends(self, topic: str) -> Places:
        """Places from which on a stream's shards hold what arrives from now on.

        Raises:
            StreamError: The stream cannot be read.
        """
        return self.began(topic, LATEST)

    def close(self) -> None:
        """Nothing is left open."""
