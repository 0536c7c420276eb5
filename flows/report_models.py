"""How good the models were by the labels that came: the replay report's table of champion, challengers and segments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from flows.report_axis import percent, whole
from flows.report_page import Column, Section, behind, card, empty, heading, table

_FIGURES: Final = (
    # heading, name in metrics.json, as a share
    ("average precision", "average_precision", False),
    ("AUC", "auc", False),
    ("recall at 0.1 % false", "recall_at_0_1_percent", True),
    ("at 1 %", "recall_at_1_percent", True),
    ("money at 1 %", "money_at_1_percent", True),
    ("precision of a day's cards", "precision_at_cards", True),
    ("calibration error", "calibration_error", False),
    ("Brier", "brier", False),
)
_ALL: Final = "all"


def models(metrics: Mapping[str, Any]) -> Section:
    """Figures of each model over the newest windows whose labels have matured."""
    title = "Models, judged by late labels"
    found: dict[str, Any] = metrics.get("evaluation") or {}
    told: dict[str, Any] = found.get("models") or {}
    if not any(_rows(told, everything=False)):
        return Section("models", "Models", title, empty("No label has come for a payment that a model had scored."))
    columns = [
        Column("model"),
        Column("days up to the last mature one", wide=True),
        *(Column(name, number=True) for name in ("payments", "frauds", *(name for name, _, _ in _FIGURES))),
    ]
    note = (
        "The score given at the decision against the label that came later; sampled labels count for those left out. "
        f"A day's cards: the {whole(int(found['cards_a_day']))} with the highest scores."
    )
    body = card(
        heading("Champion and challengers", note),
        table("Figures of each model", columns, _rows(told, everything=False), whole=True),
        behind("By channel, country and amount", [*columns[:1], Column("segment", wide=True), *columns[1:]],
               _rows(told, everything=True)),
    )  # fmt: skip
    return Section("models", "Models", title, body)


def _rows(told: Mapping[str, Any], *, everything: bool) -> list[list[str]]:
    rows = []
    for model, windows in told.items():
        for window, segments in windows.items():
            for segment, figures in segments.items():
                if (segment == _ALL) is everything:
                    continue
                counts = [whole(round(figures[name])) for name in ("payments", "frauds")]
                cells = [_cell(figures[name], share=share) for _, name, share in _FIGURES]
                rows.append([model, *([segment] if everything else []), window, *counts, *cells])
    return rows


def _cell(value: float | None, *, share: bool) -> str:
    if value is None:
        return "—"
    return percent(value, 1.0) if share else f"{value:.4f}"
