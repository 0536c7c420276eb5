"""The demo: traffic from nothing, replayed through the default profile, and what was caught.

    python -m load_tests.demo --out demo-out [--payments 200000] [--seed 7]

traffic → demo-out/events; weir replay → demo-out/run, with report.html; the summary of both → the terminal.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

import orjson
from rich import box
from rich.columns import Columns
from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from load_tests.generate import generate, is_made
from load_tests.summary import ACTIONS, Caught, Summary, summarise
from load_tests.traffic.layout import Params
from schemas.reasons import REASON_CODES

ROOT: Final = Path(__file__).resolve().parents[1]
PROFILE: Final = ROOT / "deploy" / "profiles" / "cards"
_STYLES: Final = {"approve": "green", "challenge": "yellow", "review": "dark_orange", "decline": "red"}


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; returns its exit code: that of the replay when it fails."""
    usual = Params()
    parser = argparse.ArgumentParser(
        prog="python -m load_tests.demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("demo-out"), help="folder for events and results")
    parser.add_argument("--payments", type=int, default=usual.payments)
    parser.add_argument("--days", type=int, default=usual.days)
    parser.add_argument("--seed", type=int, default=usual.seed)
    parser.add_argument("--profile", type=Path, default=PROFILE, help="folder with features.toml and policy.toml")
    given = parser.parse_args(arguments)
    console = Console()
    params = Params(payments=given.payments, days=given.days, seed=given.seed)
    events, run = given.out / "events", given.out / "run"

    started = time.monotonic()
    if is_made(params, events):
        console.print(f"[bold]Traffic[/] is there: {events}", soft_wrap=True)
    else:
        with console.status(f"Making {params.payments:,} payments of {params.days} days"):
            try:
                generate(params, events)
            except ValueError as error:
                parser.error(str(error))
        console.print(
            f"[bold]Traffic[/]: {params.payments:,} payments, {params.customer_count:,} customers, {params.days} days, "
            f"in {time.monotonic() - started:.0f} s → {events}"
        )
    console.print(f"[bold]Replay[/] through {given.profile}")
    started = time.monotonic()
    code = replay(given.profile, events, run)
    if code != 0:
        console.print(f"[red]The replay failed with exit code {code}; what it said stands above.[/]")
        return code
    took_s = time.monotonic() - started
    console.print(
        f"Replayed in {took_s:.0f} s: {params.payments / took_s:,.0f} payments a second with start and report"
    )
    show(summarise(events / "truth.jsonl", run), console)
    console.print(f"\n[bold]Report[/]: {(run / 'report.html').resolve().as_uri()}", soft_wrap=True)
    return 0


def replay(profile: Path, events: Path, run: Path) -> int:
    """Run `weir replay` as a user would, in a process of its own; returns its exit code."""
    command = [sys.executable, "-m", "flows.cli", "replay"]
    for option, path in (("--profile", profile), ("--events", events), ("--out", run)):
        command += [option, str(path.resolve())]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def show(summary: Summary, console: Console) -> None:
    """Print a summary."""
    console.print()
    console.print(_pattern_table(summary))
    console.print(
        Columns([_action_table(summary), _reason_table(summary), _dead_letter_table(summary)], padding=(0, 3))
    )
    console.print(_score_line(summary))
    if summary.undecided:
        console.print(f"[red]{summary.undecided:,} payments have no decision.[/]")
    if summary.example is not None:
        console.print(_decision_panel(orjson.loads(summary.example)))


def _pattern_table(summary: Summary) -> Table:
    # Narrow on purpose: it fits a terminal of 80 columns.
    table = Table(title="What was caught: challenged, reviewed or declined", title_justify="left", show_footer=True)
    table.box, table.collapse_padding, table.pad_edge = box.SIMPLE_HEAVY, True, False
    total = summary.total
    headers = ("frauds", "stopped", "money", "stopped", "crimes", "stopped", "first")
    table.add_column("pattern", footer="all", no_wrap=True)
    for header, footer in zip(headers, _caught_cells(total), strict=True):
        table.add_column(header, footer=footer, justify="right", no_wrap=True)
    for pattern, caught in summary.patterns.items():
        table.add_row(pattern.replace("_", " "), *_caught_cells(caught))
    table.caption = "a crime is one payment or many; first: which of them was stopped first, median"
    return table


def _caught_cells(caught: Caught) -> tuple[str, ...]:
    first = caught.median_first_stopped
    return (
        f"{caught.frauds:,}",
        _share(caught.stopped, caught.frauds),
        f"€{caught.money_eur:,.0f}" if caught.money_eur < 10_000 else f"€{caught.money_eur / 1000:,.0f}k",
        _share(caught.money_stopped_eur, caught.money_eur),
        f"{caught.episodes:,}",
        _share(caught.episodes_stopped, caught.episodes),
        "" if first is None else f"{first:g}.",
    )


def _action_table(summary: Summary) -> Table:
    table = Table(title="Actions", title_justify="left")
    table.add_column("action")
    table.add_column("genuine", justify="right")
    table.add_column("share", justify="right")
    table.add_column("fraud", justify="right")
    genuine = sum(summary.genuine.values())
    for action in ACTIONS:
        table.add_row(
            Text(action, style=_STYLES[action]),
            f"{summary.genuine[action]:,}",
            _share(summary.genuine[action], genuine, digits=2),
            f"{summary.fraud[action]:,}",
        )
    table.caption = f"stopped wrongly: {summary.false_positive_rate:.2%} of genuine payments"
    return table


def _reason_table(summary: Summary, most: int = 12) -> Table:
    table = Table(title="Reasons of what was stopped", title_justify="left")
    table.add_column("reason")
    table.add_column("fraud", justify="right")
    table.add_column("genuine", justify="right")
    ranked = sorted(summary.reasons.items(), key=lambda item: (-sum(item[1]), item[0]))
    for reason, (genuine, fraud) in ranked[:most]:
        table.add_row(reason, f"{fraud:,}", f"{genuine:,}")
    if len(ranked) > most:
        table.caption = f"and {len(ranked) - most} more"
    return table


def _dead_letter_table(summary: Summary) -> Table:
    table = Table(title="Dead letters", title_justify="left")
    table.add_column("stream")
    table.add_column("reason")
    table.add_column("records", justify="right")
    for (stream, reason), count in sorted(summary.dead_letters.items()):
        table.add_row(stream, reason, f"{count:,}")
    return table


def _score_line(summary: Summary) -> str:
    line = f"[bold]Score[/]: {summary.scored:,} payments scored, {summary.scored_frauds:,} of them frauds"
    if summary.auc is not None and summary.average_precision is not None:
        line += f"; AUC {summary.auc:.3f}, average precision {summary.average_precision:.3f}"
    return f"{line}. [bold]Retries[/] answered with the decision already made: {summary.retries:,}."


def _decision_panel(decision: dict[str, Any]) -> Panel:
    """One decision in full."""
    action = str(decision["action"])
    score = decision.get("score")
    facts = Table.grid(padding=(0, 2))
    facts.add_row("action", Text(action, style=f"bold {_STYLES.get(action, '')}"))
    facts.add_row("score", "none: the model was not trained yet" if score is None else f"{score:.4f}")
    for name in ("transaction_id", "event_time", "channel", "country", "amount_minor", "currency"):
        facts.add_row(name, _plain(decision.get(name)))
    for name, value in decision.items():
        if name.endswith("_id") and name != "transaction_id":
            facts.add_row(name, _plain(value))
    reasons = Table.grid(padding=(0, 2))
    for code in decision.get("reason_codes") or []:
        reasons.add_row(Text(code, style="bold"), REASON_CODES.get(code, ""))
    hits = [f"{hit['rule']} → {hit['action']}" for hit in decision.get("rule_hits") or []]
    parts = [f"{item['feature']} {item['value']:+.2f}" for item in decision.get("contributions") or []]
    features = [
        f"{name} [cyan]{_plain(value)}[/]"
        for name, value in (decision.get("features") or {}).items()
        if value is not None
    ]
    blocks: list[Any] = [facts, Text("Reasons", style="bold"), reasons]
    for title, items in (("Rules", hits), ("Largest contributions", parts), ("Features", features)):
        if items:
            blocks += [Text(title, style="bold"), Columns(items, padding=(0, 3))]
    for name in ("quality_flags", "shadow_hits", "versions"):
        if decision.get(name):
            blocks += [Text(name.replace("_", " ").capitalize(), style="bold"), Text(_plain(decision[name]))]
    return Panel(Group(*blocks), title="One decision: impossible travel", title_align="left")


def _plain(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.2f}".rstrip("0").rstrip(".")
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(item)}" for name, item in value.items() if item is not None)
    if isinstance(value, list):
        return ", ".join(_plain(item) for item in value)
    return "" if value is None else str(value)


def _share(part: float, whole: float, digits: int = 0) -> str:
    return f"{part / whole:.{digits}%}" if whole else ""


if __name__ == "__main__":
    raise SystemExit(main())
