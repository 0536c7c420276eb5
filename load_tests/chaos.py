"""The kill campaign: replays under steady load, killed, stopped, starved and damaged, must end as if nothing had been.

    python -m load_tests.chaos --kills 50 [--seed S] [--out chaos-out]

Each round replays the same traffic with one process or two, through a run of faults chosen by the seed, and ends with
a start that nothing is done to. Then outputs and state are compared with those of an uninterrupted replay.
docs/chaos.md explains the result. Exit code 0: clean; 1: not; the table stands in OUT/report.md.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from flows.profile import Profile, load_profile
from load_tests.campaign.checks import Published, Readers, compare, read_published
from load_tests.campaign.disk import may_mount, small_disk
from load_tests.campaign.faults import FAULTS, Scene, StreamEndedError
from load_tests.campaign.replica import START_LIMIT_S, Replica, ReplicaError, Setup, wait_for
from load_tests.campaign.report import Report
from load_tests.canonical_state import Canonical, CanonicalError, canonical_state, differences
from load_tests.generate import generate, is_made
from load_tests.traffic.layout import Params
from schemas.errors import WeirError

PROFILE: Final = Path(__file__).resolve().parent / "campaign" / "profile"
TRAFFIC: Final = Params(payments=4_000, days=10, customers=200, seed=7)
"""Longer: more faults fit into a round; shorter: a round's check comes sooner. 4,000 payments are 10 s of load."""
RATE: Final = 400.0
"""Events a second. Higher: fewer faults before the events are all decided; lower: fewer events meet a fault."""
FAULTS_A_ROUND: Final = 9
"""More make rounds that run out of events; fewer make more uninterrupted ends, 8 s each."""
COMMON: Final = ("kill all", "kill one process", "kill in snapshot", "kill in start", "kill twice")
"""Drawn again once every kind has been; the others take several starts each and are drawn half as often."""


@dataclass(frozen=True, slots=True)
class Round:
    """Faults to be done to one replay, in this order."""

    processes: int
    kinds: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reference:
    """What the uninterrupted replay left: the state with and without what depends on the order of arrival."""

    published: Published
    exact: Canonical
    unordered: Canonical


def plan(kills: int, rng: random.Random, kinds: Sequence[str], processes: Sequence[int]) -> list[Round]:
    """Every kind once, then drawn ones, cut into rounds that take turns with the numbers of processes.

    A kill of one process among several goes to rounds of several; a round of one kills all instead.
    """
    drawn = list(kinds[:kills])
    weights = [2 if kind in COMMON else 1 for kind in kinds]
    drawn += rng.choices(list(kinds), weights, k=kills - len(drawn))
    rng.shuffle(drawn)
    count = -(-kills // FAULTS_A_ROUND)
    if len(processes) > 1:
        count = max(count, min(len(processes), kills))
    sizes = [processes[number % len(processes)] for number in range(count)]
    hands: list[list[str]] = [[] for _ in sizes]
    several = [number for number, size in enumerate(sizes) if size > 1]
    for kind in sorted(drawn, key=lambda kind: kind != "kill one process"):
        able = several if kind == "kill one process" and several else range(count)
        min((hands[number] for number in able), key=len).append(kind)
    for hand in hands:
        rng.shuffle(hand)
    return [Round(size, tuple(hand)) for size, hand in zip(sizes, hands, strict=True)]


class Campaign:
    """Runs rounds and enters what they find into the report."""

    def __init__(self, out: Path, setup: Setup, seed: int, tell: Callable[[str], None]) -> None:
        self._out = out
        self._setup = setup
        self._seed = seed
        self._tell = tell
        self._profile: Profile = load_profile(setup.profile)
        self._reference: Reference | None = None
        self.report = Report()

    def run(self, rounds: Sequence[Round]) -> None:
        """Run all rounds; faults that a round had no events left for go to a further one."""
        self._reference = self._uninterrupted()
        waiting = list(rounds)
        number = 0
        while waiting:
            number += 1
            one = waiting.pop(0)
            left = self._round(number, one)
            if left:
                waiting.append(Round(one.processes, left))

    def _uninterrupted(self) -> Reference:
        """A replay that nothing is done to, with one process and without what the campaign may break it with."""
        directory = self._out / "uninterrupted"
        shutil.rmtree(directory, ignore_errors=True)
        replica = Replica(
            replace(self._setup, processes=1, before=None), directory, self._out / "logs" / "uninterrupted"
        )
        try:
            _finish(replica)
        finally:
            replica.end()
        exact, unordered = (
            canonical_state(replica.state, replica.out, self._profile, in_order=in_order) for in_order in (True, False)
        )
        published = read_published(replica.out)
        self._tell(f"uninterrupted: {published.identities.total():,} records published, {len(exact):,} in state")
        return Reference(published, exact, unordered)

    def _round(self, number: int, one: Round) -> tuple[str, ...]:
        """Do a round's faults and judge it; returns the faults that no events were left for."""
        rng = random.Random(f"{self._seed} {number}")
        directory = self._out / f"round-{number:02d}"
        shutil.rmtree(directory, ignore_errors=True)
        report = self.report
        with ExitStack() as stack:
            disk = None
            if "disk full" in one.kinds:
                disk = stack.enter_context(small_disk(directory))
            replica = Replica(
                replace(self._setup, processes=one.processes), directory, self._out / "logs" / f"{number:02d}"
            )
            readers = Readers()
            unproven: list[str] = []

            def resumed() -> None:
                for kind in unproven:
                    report.row(kind).resumed += 1
                unproven.clear()

            copies = self._out / "copy"
            scene = Scene(replica, rng, disk, copies, resumed, readers.forget)
            done: set[str] = set()
            left: tuple[str, ...] = ()
            try:
                for place, kind in enumerate(one.kinds):
                    started = time.monotonic()
                    try:
                        detail = FAULTS[kind](scene)
                    except StreamEndedError:
                        left = one.kinds[place:]
                        break
                    finally:
                        report.row(kind)
                    report.row(kind).faults += 1
                    unproven.append(kind)
                    done.add(kind)
                    self._look(replica, readers, kind, f"round {number}, after {kind} ({detail})")
                    self._tell(
                        f"round {number} ({one.processes}): {kind}: {detail}, {time.monotonic() - started:.1f} s"
                    )
                _finish(replica)
                resumed()
                self._judge(number, one, replica, readers, done)
            except ReplicaError as error:
                kind = one.kinds[min(len(done), len(one.kinds) - 1)]
                report.fail(f"round {number} ({one.processes} processes), at {kind}: {error}")
                self._tell(f"round {number}: FAILED: {error}")
                for broken in {*done, *unproven}:
                    report.row(broken).states_equal = False
            finally:
                replica.end()
                shutil.rmtree(copies, ignore_errors=True)
        return left if not report.failed else ()

    def _look(self, replica: Replica, readers: Readers, kind: str, where: str) -> None:
        """Between two starts: nothing may stand there twice or contradict, and what was read must stay."""
        if self._reference is None:
            raise AssertionError
        readers.look(replica.out)
        verdict = compare(read_published(replica.out), self._reference.published, at_end=False)
        if verdict.twice or verdict.contradicted:
            self.report.judge({kind}, verdict, state_equal=True, where=where)

    def _judge(self, number: int, one: Round, replica: Replica, readers: Readers, done: set[str]) -> None:
        if self._reference is None:
            raise AssertionError
        in_order = one.processes == 1
        published = read_published(replica.out)
        verdict = compare(published, self._reference.published, at_end=True)
        verdict.withdrawn = readers.withdrawn(replica.out)
        reference = self._reference.exact if in_order else self._reference.unordered
        try:
            told = differences(canonical_state(replica.state, replica.out, self._profile, in_order=in_order), reference)
        except (CanonicalError, WeirError) as error:
            told = [str(error)]
        where = f"round {number} ({one.processes} processes: {', '.join(one.kinds)})"
        self.report.judge(done, verdict, state_equal=not told, where=where)
        for line in told[:10]:
            self.report.notes.append(f"round {number}, state: {line}")
        if in_order and not verdict.bytes_equal:
            self.report.fail(f"{where}: with one process the outputs must be equal to the byte, and are not")
        if verdict.unlike:
            self.report.fail(
                f"{where}: {verdict.unlike} labelled outcomes do not carry what their published decision was scored on"
            )
        equal = "equal to the byte" if verdict.bytes_equal else "complete"
        self._tell(
            f"round {number} ({one.processes}): judged: {verdict}, outputs {equal}, {len(told)} state differences"
        )


def _finish(replica: Replica) -> None:
    """Start once more, at full speed, and let it come to the end.

    Raises:
        ReplicaError: It does not, or not well.
    """
    life = replica.start(paced=False)
    wait_for(lambda: life.exit_code() is not None, START_LIMIT_S)
    code = life.exit_code()
    life.kill()
    if code != 0:
        message = f"expected the last start to come to the end, found exit code {code}; it told:\n{life.told()}"
        raise ReplicaError(message)


def main(arguments: list[str] | None = None) -> int:
    """Run a campaign; returns 0 when it is clean."""
    parser = argparse.ArgumentParser(
        prog="python -m load_tests.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50, help="faults in all")
    parser.add_argument("--seed", type=int, help="chooses faults and moments; default: a new one, which is told")
    parser.add_argument("--out", type=Path, default=Path("chaos-out"), help="folder, emptied first but for its traffic")
    parser.add_argument("--profile", type=Path, default=PROFILE)
    parser.add_argument("--payments", type=int, default=TRAFFIC.payments)
    parser.add_argument("--rate", type=float, default=RATE, help="events a second while faults are done")
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--processes", default="1,2", help="of the rounds, in turns")
    parser.add_argument("--faults", default=",".join(FAULTS), help="kinds to do")
    parser.add_argument("--before", type=Path, help="Python file that each replayed process runs first")
    given = parser.parse_args(arguments)
    seed = given.seed if given.seed is not None else random.SystemRandom().randrange(10**6)
    kinds = given.faults.split(",")
    unknown = [kind for kind in kinds if kind not in FAULTS]
    if unknown or given.kills < 1:
        parser.error(f"expected --kills of 1 and more, and faults out of {', '.join(FAULTS)}; found {unknown}")
    processes = [int(number) for number in given.processes.split(",")]
    out: Path = given.out.resolve()
    events = out / "events"
    params = replace(TRAFFIC, payments=given.payments)
    if out.is_dir() and any(out.iterdir()) and not events.is_dir():
        parser.error(f"--out {out}: expected an empty folder or one of an earlier campaign")
    for old in (*out.glob("round-*"), out / "logs"):
        shutil.rmtree(old, ignore_errors=True)
    if not is_made(params, events):
        generate(params, events)

    started = time.monotonic()

    def tell(line: str) -> None:
        sys.stderr.write(f"{time.monotonic() - started:6.0f} s  {line}\n")

    before = given.before.resolve() if given.before else None
    setup = Setup(given.profile.resolve(), events, 1, given.shards, given.rate, before)
    campaign = Campaign(out, setup, seed, tell)
    report = campaign.report
    if max(processes) == 1 and "kill one process" in kinds:
        kinds.remove("kill one process")
    refusal = may_mount(out / "small-disk") if "disk full" in kinds else ""
    if refusal:
        kinds.remove("disk full")
        report.notes.append(f"disk full: skipped, no small disk can be mounted here ({refusal})")
    earlier = signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))  # so that `finally` holds
    tell(f"seed {seed}, {given.kills} faults, {given.payments:,} payments at {given.rate:g} a second")
    try:
        campaign.run(plan(given.kills, random.Random(seed), kinds, processes))
    finally:
        signal.signal(signal.SIGTERM, earlier)
    report.facts = [
        f"seed {seed}: `make chaos KILLS={given.kills} SEED={seed}`",
        f"{given.payments:,} payments at {given.rate:g} events a second, an epoch every 0.2 s, rounds of "
        f"{given.processes} processes, {time.monotonic() - started:.0f} s in all",
    ]
    page = report.markdown()
    (out / "report.md").write_text(page)
    sys.stdout.write(page)
    return 0 if report.clean() else 1


if __name__ == "__main__":
    raise SystemExit(main())
