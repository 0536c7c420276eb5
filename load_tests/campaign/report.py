"""What a kill campaign found, as a table by kind of fault: for a terminal and as markdown."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from load_tests.campaign.checks import Verdict

COLUMNS: Final = ("faults", "resumed", "lost", "twice", "contradicted", "torn", "withdrawn", "state equal")


@dataclass(slots=True)
class Row:
    """One kind of fault.

    Attributes:
        faults: How many were done.
        resumed: How many of them the replay came through with the expected end.
        verdict: What was found wrong, added up over the rounds that had this fault: a round is judged as a whole.
        states_equal: Whether the final states of all these rounds are equal to the uninterrupted one.
    """

    faults: int = 0
    resumed: int = 0
    verdict: Verdict = field(default_factory=Verdict)
    states_equal: bool = True


@dataclass(slots=True)
class Report:
    """A campaign's result.

    Attributes:
        rows: By kind of fault.
        notes: What was found wrong, a paragraph each, and what was skipped and why.
        facts: How it was run.
    """

    rows: dict[str, Row] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)
    failed: bool = False

    def row(self, kind: str) -> Row:
        """The row of a kind, made when it is the first."""
        return self.rows.setdefault(kind, Row())

    def fail(self, note: str) -> None:
        """Something is wrong."""
        self.failed = True
        self.notes.append(note)

    def judge(self, kinds: set[str], verdict: Verdict, *, state_equal: bool, where: str) -> None:
        """Enter what a round's end, or a look in between, has found."""
        wrong = (verdict.lost, verdict.twice, verdict.contradicted, verdict.torn, verdict.withdrawn)
        for kind in kinds:
            row = self.row(kind)
            row.verdict.lost += verdict.lost
            row.verdict.twice += verdict.twice
            row.verdict.contradicted += verdict.contradicted
            row.verdict.torn += verdict.torn
            row.verdict.withdrawn += verdict.withdrawn
            row.states_equal &= state_equal
        if any(wrong) or not state_equal:
            told = ", ".join(f"{number} {name}" for number, name in zip(wrong, COLUMNS[2:7], strict=True))
            self.fail(f"{where}: {told}, state {'equal' if state_equal else 'not equal'}")

    def clean(self) -> bool:
        """Whether every fault was come through and nothing is wrong."""
        return not self.failed and all(row.resumed == row.faults for row in self.rows.values())

    def table(self) -> list[list[str]]:
        """Header, a line a kind, and the sum."""
        lines = [["fault", *COLUMNS]]
        faults = resumed = 0
        for kind, row in self.rows.items():
            found = row.verdict
            numbers = (row.faults, row.resumed, found.lost, found.twice, found.contradicted, found.torn)
            lines.append(
                [kind, *map(str, numbers), str(found.withdrawn), "yes" if row.states_equal and row.faults else "no"]
            )
            faults += row.faults
            resumed += row.resumed
        lines.append(["all", str(faults), str(resumed), *[""] * 5, "clean" if self.clean() else "NOT CLEAN"])
        return lines

    def markdown(self) -> str:
        """The report as a page."""
        header, *rest = self.table()
        lines = ["# Kill campaign", "", *[f"- {fact}" for fact in self.facts], ""]
        lines += [_line(header), _line(["---", *["---:"] * 7, "---"])]
        lines += [_line(row) for row in rest]
        if self.notes:
            lines += ["", "## Notes", ""]
            lines += [f"- {note.splitlines()[0]}" + _rest(note) for note in self.notes]
        return "\n".join(lines) + "\n"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _rest(note: str) -> str:
    lines = note.splitlines()[1:]
    return "".join(f"\n      {line}" for line in ["", *lines]) if lines else ""
