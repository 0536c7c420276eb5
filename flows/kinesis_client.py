"""What the Kinesis source and sink share: clients, which errors end a run and what they say, waiting with jitter.

botocore retries nothing here: a write must not be repeated before it is known that nothing came of it
(flows/kinesis_put.py), and each wait is told to the watchdog. Credentials come by boto3's usual chain; with `role` in
the URL they are those of the role, renewed before they expire. No message and no log line holds one.
"""

from __future__ import annotations

import logging
import random
import re
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

import boto3
import botocore.exceptions as boto
from botocore.config import Config
from botocore.credentials import AssumeRoleCredentialFetcher, DeferredRefreshableCredentials

from flows.kafka_client import TELL_EVERY_S
from flows.live_hooks import LiveHooks
from flows.streams import KinesisStream
from flows.watchdog import Pulse
from schemas.errors import ConfigError, StreamError

THROTTLED: Final = "throttled"
EXPIRED: Final = "expired"
PASSING: Final = "passing"
FATAL: Final = "fatal"
ClientFault = (boto.ClientError, boto.BotoCoreError)
"""What a client raises."""
_OUTAGE_S: Final = 2.0
"""Failures for so long are told as an outage; a single one is every day's."""
AGAIN_S: Final = 1.0
"""Between looks of who waits until Kinesis is back. With the longest that a request takes before it fails, this bounds
the time in which the watchdog hears nothing: it must stay below its limit, 30 s by default."""
_CONNECT_S: Final = 5.0
_ANSWER_S: Final = 10.0
"""An answer of 10 MB at a slow moment takes seconds. A request that was given up may yet be carried out: shorter would
make that the rule."""
_SESSION: Final = "weir"

_THROTTLES: Final = frozenset(
    {
        "ProvisionedThroughputExceededException",
        "LimitExceededException",
        "KMSThrottlingException",
        "ThrottlingException",
        "Throttling",
        "RequestLimitExceeded",
        "TooManyRequestsException",
    }
)
_PASSING: Final = frozenset(
    {
        "InternalFailure",
        "InternalServerError",
        "InternalFailureException",
        "IDPCommunicationError",  # of STS, when it does not reach who vouches for a service account
        "ServiceUnavailable",
        "RequestTimeout",
        "RequestTimeoutException",
        "ResourceInUseException",
    }
)
_HINTS: Final = {
    "AccessDeniedException": "IAM denies it; grant what deploy/iam/ lists to Weir's role",
    "AccessDenied": "IAM denies it; look at the role's trust policy and at deploy/iam/",
    "ResourceNotFoundException": "there is no such stream or shard; make it (docs/aws.md), or correct URL and region",
    "UnrecognizedClientException": "AWS does not know these credentials; see docs/aws.md",
    "InvalidSignatureException": "the secret key is wrong, or this machine's clock is",
    "ExpiredTokenException": "the session has expired and nothing renews it; use a role instead of copied credentials",
    "InvalidArgumentException": "the stream was made anew under its name; see docs/runbooks/stream-position.md",
    "NoCredentialsError": "no credentials were found in the environment, the shared files or from the host's role",
    "NoRegionError": "give region=... in the URL, or AWS_REGION",
}

_SIGNED: Final = re.compile(r"The Canonical String|The String-to-Sign|Authorization=", re.IGNORECASE)
"""Behind these AWS repeats the request, its headers included."""
_SECRETIVE: Final = re.compile(
    r"\b(?:AKIA|ASIA)[A-Z0-9]{8,}|(?:x-amz-security-token|credential|signature)\s*[:=]\s*\S+", re.IGNORECASE
)
_MOST_TOLD: Final = 500

T = TypeVar("T")


class _WithoutTrace(logging.Filter):
    """A refresh that failed is told, not the error's text: `hear` tells that, without what is secret."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Called for each record of the logger."""
        record.exc_info = None
        return True


logging.getLogger("botocore.credentials").addFilter(_WithoutTrace())


def error_name(raised: Exception) -> str:
    """What an error is called: AWS's code, or the exception's name."""
    if isinstance(raised, boto.ClientError):
        return str(raised.response.get("Error", {}).get("Code") or type(raised).__name__)
    return type(raised).__name__


def kind_of(raised: Exception) -> str:
    """THROTTLED, EXPIRED (the iterator), PASSING (try again) or FATAL."""
    name = error_name(raised)
    if name in _THROTTLES:
        return THROTTLED
    if name == "ExpiredIteratorException":
        return EXPIRED
    if isinstance(raised, boto.ClientError):
        status = raised.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return PASSING if name in _PASSING or status >= 500 else FATAL
    passing = (boto.HTTPClientError, boto.ConnectionError, boto.IncompleteReadError, boto.ResponseStreamingError)
    return PASSING if isinstance(raised, (*passing, boto.CredentialRetrievalError)) else FATAL


def stream_error(side: str, what: str, raised: Exception) -> StreamError:
    """The sentence for an error that ends a run.

    Args:
        side: inputs or outputs.
        what: Stream or shard it is about.
        raised: By the client; what in its text may be part of credentials is left out.
    """
    name = error_name(raised)
    hint = _HINTS.get(name, "start again; if it comes back, see docs/aws.md")
    told = raised.response.get("Error", {}).get("Message") if isinstance(raised, boto.ClientError) else str(raised)
    return StreamError(f"{side} {what}: {name}: {_told(str(told or 'no more is told'))}; {hint}")


def _told(text: str) -> str:
    """What AWS says, in one line: a refused signature is answered with all that was signed, session token included."""
    text = _SIGNED.split(text, maxsplit=1)[0]
    text = " ".join(_SECRETIVE.sub("(not shown)", text).split())
    return text if len(text) <= _MOST_TOLD else f"{text[:_MOST_TOLD]}..."


def client_of(stream: KinesisStream) -> Any:
    """A client for a stream and those of the same account; threads may share it.

    Raises:
        ConfigError: There is no region, or no such profile.
    """
    try:
        session = boto3.Session(region_name=stream.region)
        if stream.role is not None:
            _assume(session, stream.role, stream.external_id)
        return session.client(
            "kinesis",
            endpoint_url=stream.endpoint,
            config=_bounds().merge(
                Config(max_pool_connections=64, tcp_keepalive=True, parameter_validation=False, user_agent_extra="weir")
            ),
        )
    except boto.BotoCoreError as raised:
        message = f"{stream.topic}: {error_name(raised)}: {raised}; {_HINTS.get(error_name(raised), 'see docs/aws.md')}"
        raise ConfigError(message) from raised


def _bounds() -> Config:
    return Config(connect_timeout=_CONNECT_S, read_timeout=_ANSWER_S, retries={"total_max_attempts": 1})


def _assume(session: Any, role: str, external_id: str | None) -> None:
    """Have a session use a role, asked for with the credentials it found; renewed before they expire."""
    inner = session._session  # noqa: SLF001 - boto3 offers no other way to put a provider of credentials in
    source = inner.get_credentials()
    if source is None:
        raise boto.NoCredentialsError
    more = {"RoleSessionName": _SESSION} | ({"ExternalId": external_id} if external_id else {})

    def sts(service: str, **told: Any) -> Any:
        # botocore's own bounds, five times a minute, would keep all requests waiting that need new credentials.
        return inner.create_client(service, config=_bounds(), **told)

    fetcher = AssumeRoleCredentialFetcher(sts, source, role, extra_args=more)
    inner._credentials = DeferredRefreshableCredentials(  # noqa: SLF001 - likewise
        refresh_using=fetcher.fetch_credentials, method="assume-role"
    )


class Backoff:
    """Waits that grow with every failure, with jitter (Brooker, AWS Architecture Blog, 2015), and fall back at once."""

    def __init__(self, first_s: float = 0.1, most_s: float = 5.0) -> None:
        """Prepare.

        Args:
            first_s: Bound of the first wait; smaller meets the same full second's limit again.
            most_s: Bound of all; larger is felt as latency when an outage ends.
        """
        self._first_s = first_s
        self._most_s = most_s
        self._failures = 0
        self._random = random.Random()  # noqa: S311 - spreads load, guards nothing

    def next_s(self) -> float:
        """How long to wait after one more failure."""
        bound = min(self._most_s, self._first_s * 2 ** min(self._failures, 16))
        self._failures += 1
        return self._random.uniform(bound / 4, bound)

    def reset(self) -> None:
        """It went well."""
        self._failures = 0


class KinesisWatch:
    """Hears a side's errors, from whatever thread: counts, says an outage once a minute, keeps what ends the run."""

    def __init__(self, side: str, where: str, hooks: LiveHooks) -> None:
        """Prepare.

        Args:
            side: inputs or outputs.
            where: Streams and region, for messages.
            hooks: Told of errors and outages.
        """
        self.fault: StreamError | None = None
        self.side = side
        self._where = where
        self._hooks = hooks
        self._lock = threading.Lock()
        self._told = -TELL_EVERY_S
        self._failing_since: float | None = None
        self._down = False
        self._answered = False

    def refused(self, code: str) -> None:
        """A part of a request was refused, and is asked for again."""
        self._hooks.broker_error(self.side, code)

    def hear(self, what: str, raised: Exception) -> str:
        """A request failed; returns the error's kind, and keeps a fatal one."""
        kind = kind_of(raised)
        with self._lock:
            self._hooks.broker_error(self.side, error_name(raised))
            if kind == FATAL:
                self.fault = self.fault or stream_error(self.side, what, raised)
            elif kind == PASSING:
                now = time.monotonic()
                self._failing_since = self._failing_since or now
                if now - self._failing_since > _OUTAGE_S:
                    self._tell_down(f"{what}: {error_name(raised)}")
        return kind

    def refuse(self, fault: StreamError) -> None:
        """Something ends the run."""
        with self._lock:
            self.fault = self.fault or fault

    def down(self, why: str) -> None:
        """Nothing comes in or goes out."""
        with self._lock:
            self._tell_down(why)

    def _tell_down(self, why: str) -> None:
        self._down = True
        self._hooks.broker_up(self.side, False)
        now = time.monotonic()
        if now - self._told >= TELL_EVERY_S:
            self._told = now
            sys.stderr.write(
                f"weir: {self.side} {self._where}: Kinesis does not answer ({why}); trying again for ever\n"
            )

    def up(self) -> None:
        """A request was answered."""
        if self._answered and self._failing_since is None and not self._down:
            return
        with self._lock:
            self._answered = True
            self._failing_since = None
            if self._down:
                self._down = False
                self._told = -TELL_EVERY_S
                sys.stderr.write(f"weir: {self.side} {self._where}: Kinesis answers again\n")
            self._hooks.broker_up(self.side, True)

    def check(self) -> None:
        """Raise what ends the run.

        Raises:
            StreamError: There is something.
        """
        if self.fault is not None:
            raise self.fault


def asked(question: Callable[[], T], watch: KinesisWatch, pulse: Pulse, what: str, stop: Callable[[], bool]) -> T:
    """The answer to a question, asked again until there is one.

    Raises:
        StreamError: No further asking would help, or `stop` says that nobody wants to know any more.
    """
    backoff = Backoff()
    while True:
        try:
            answer = question()
        except ClientFault as raised:
            if watch.hear(what, raised) == FATAL:
                raise stream_error(watch.side, what, raised) from raised
        else:
            watch.up()
            return answer
        pulse.beat(f"waiting for Kinesis, {watch.side}: {what}")
        if stop():
            message = f"{watch.side} {what}: told to stop before Kinesis answered; nothing was read"
            raise StreamError(message)
        time.sleep(backoff.next_s())
