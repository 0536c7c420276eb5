"""Pieces of the report's page: document, sections, tiles, legends and tables; data goes through `escape` here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from flows.report_style import style_sheet


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page: `ident` is its anchor, `name` its place in the contents, `body` finished HTML."""

    ident: str
    name: str
    heading: str
    body: str


@dataclass(frozen=True, slots=True)
class Column:
    """A table's column; numbers stand at the right, `wide` text may break anywhere, `prose` wants room."""

    name: str
    number: bool = False
    wide: bool = False
    prose: bool = False


@dataclass(frozen=True, slots=True)
class Tile:
    """A headline number: what it is, the number, and a line that puts it in proportion."""

    name: str
    number: str
    more: str = ""


def document(title: str, header: str, sections: Sequence[Section], footer: str) -> str:
    """The whole page. Its content security policy forbids every script and every request.

    Args:
        title: Plain text.
        header: HTML above the contents.
        sections: In order.
        footer: HTML below.
    """
    contents = "".join(f'<li><a href="#{one.ident}">{escape(one.name)}</a></li>' for one in sections)
    body = "\n".join(
        f'<section id="{one.ident}" aria-labelledby="{one.ident}-h"><h2 id="{one.ident}-h">{escape(one.heading)}</h2>'
        f"{one.body}</section>"
        for one in sections
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        'img-src data:">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>{style_sheet()}</style>\n</head>\n<body>\n"
        f'<header>{header}<nav aria-label="Contents"><ul>{contents}</ul></nav></header>\n'
        f"<main>\n{body}\n</main>\n<footer>{footer}</footer>\n</body>\n</html>\n"
    )


def paragraph(text: str, css: str = "note") -> str:
    """A paragraph of plain text."""
    return f'<p class="{css}">{escape(text)}</p>'


def card(*parts: str) -> str:
    """A framed block of finished HTML."""
    return f'<div class="card">{"".join(parts)}</div>'


def pair(left: str, right: str) -> str:
    """Two cards, beside each other where there is room."""
    return f'<div class="pair">{left}{right}</div>'


def heading(text: str, note: str = "") -> str:
    """A chart's heading with a line on how to read it."""
    return f"<h3>{escape(text)}</h3>{paragraph(note) if note else ''}"


def empty(text: str) -> str:
    """What stands where a chart would be, had there been anything to draw."""
    return card(paragraph(text, "empty"))


def tiles(entries: Iterable[Tile]) -> str:
    """Headline numbers."""
    body = "".join(
        f'<div class="tile"><dt>{escape(one.name)}</dt><dd class="big">{escape(one.number)}</dd>'
        f"{f'<dd class=small>{escape(one.more)}</dd>' if one.more else ''}</div>"
        for one in entries
    )
    return f'<dl class="tiles">{body}</dl>'


def legend(entries: Iterable[tuple[str, str]]) -> str:
    """Keys as (classes, words)."""
    body = "".join(f'<li><span class="key {escape(css)}"></span>{escape(words)}</li>' for css, words in entries)
    return f'<ul class="legend">{body}</ul>'


def axis_name(text: str, below: bool = False) -> str:
    """What an axis counts and in which unit."""
    return f'<p class="axis-name{" below" if below else ""}">{escape(text)}</p>'


def table(caption: str, columns: Sequence[Column], rows: Iterable[Sequence[str]], whole: bool = False) -> str:
    """A table of plain text, scrolled in its own box, which the keyboard reaches.

    Args:
        caption: Read out, not shown.
        columns: The first one's cells are the rows' headings.
        rows: As many cells each as there are columns.
        whole: Shown in its full height.
    """
    head = "".join(f"<th scope=col{_css(column)}>{escape(column.name)}</th>" for column in columns)
    body = "".join(
        "<tr>"
        + "".join(
            f"<th scope=row{_css(column)}>{escape(cell)}</th>"
            if index == 0
            else f"<td{_css(column)}>{escape(cell)}</td>"
            for index, (column, cell) in enumerate(zip(columns, row, strict=True))
        )
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll{" whole" if whole else ""}" tabindex="0" role="region" aria-label="{escape(caption)}">'
        f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def behind(caption: str, columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> str:
    """The figures behind a chart, folded away."""
    return f"<details><summary>{escape(caption)}</summary>{table(caption, columns, rows)}</details>"


def _css(column: Column) -> str:
    if column.number:
        return " class=n"
    return " class=wide" if column.wide else " class=prose" if column.prose else ""
