"""Payloads as text that may be kept: what dead letters and messages show of a record.

A dead letter is where a card number would survive longest, and its payload is what could not be read as it should
have been. So everything here errs towards blanking, in this order:

1. The payload becomes text: UTF-8, or UTF-16/32 when it is. What percent signs, backslashes or HTML entities hide is
   uncovered when a card number is under it.
2. JSON: the value of a key that names card data (pan, card_number, cvv, track2 ...) is blanked whatever it holds, at
   any depth, also in JSON within a string; card numbers are blanked in all strings, numbers and keys.
3. Not JSON: the same by pattern; and every stretch of 13 digits or more goes, card number or not, since a broken or
   binary record may hold one with a wrong digit that no rule can tell.
"""

from __future__ import annotations

import html
import re
import urllib.parse
from typing import Any, Final

import orjson

from schemas.pan import MIN_PAN_DIGITS, REDACTED, plain_digits, redact_text

MASKED: Final = "[MASKED]"
DEFAULT_LENGTH: Final = 4096
# Of a larger payload only the beginning is looked at: enough to tell what it is. More costs time an attacker chooses.
MAX_BYTES_READ: Final = 65_536

_MAX_DEPTH: Final = 32
_SECRET_KEY: Final = re.compile(
    r"(?:pan|ccn|ccnum|ccnumber|primaryaccountnumber|(?:credit|debit|payment)?card(?:no|nr|num|number)?"
    r"|cvv2?|cvc2?|cvn|cav2|securitycode|cardverificationvalue|pin|pinblock|track(?:1|2|3|data)?)"
)
_SECRET_VALUE: Final = re.compile(
    r"""(?ix)
    ( (?<![a-z0-9]) (?:pan|cc[_\- ]?n(?:um(?:ber)?)?|primary[_\- ]?account[_\- ]?number
      |(?:(?:credit|debit|payment)[_\- ]?)?card[_\- ]?(?:no|nr|num|number)
      |cvv2?|cvc2?|cvn|cav2|security[_\- ]?code|pin[_\- ]?(?:block)?|track[_\- ]?(?:1|2|3|data)) \\*["']? \s* [:=] \s* )
    ( \\*"(?:[^"\\]|\\.)*\\*"? | \\*'[^']*'? | [^\s,;&}\]<]+ )
    """
)
_NOT_ALPHANUMERIC: Final = re.compile(r"[^a-z0-9]")
# Too short for a card number, and nothing in it that could assign a value or hide a character: most strings.
_HARMLESS: Final = re.compile(rf"[0-9A-Za-z _.\-]{{0,{MIN_PAN_DIGITS - 1}}}")
# Any three characters that are no letters may stand between two digits, quotes and NUL bytes included.
_ANY_STRETCH: Final = re.compile(rf"[0-9](?:[^0-9A-Za-z]{{0,3}}[0-9]){{{MIN_PAN_DIGITS - 1},}}")
# One more than the shortest card number, so that a time of day (12:00:00.000000) stays readable.
_LONG_STRETCH: Final = re.compile(r"[0-9](?:[^0-9A-Za-z]{0,3}[0-9]){12,}")
_DIGITS_AT_CUT: Final = re.compile(r"[0-9](?:[^0-9A-Za-z]{0,3}[0-9]){3,}[^0-9A-Za-z]{0,3}\Z")
_UNICODE_ESCAPE: Final = re.compile(r"\\u00([0-7][0-9a-fA-F])|\\x([0-7][0-9a-fA-F])")


def redact(payload: bytes, length: int = DEFAULT_LENGTH) -> str:
    """The payload as text without card data; never raises.

    Args:
        payload: Any bytes.
        length: Bound of the text in characters; what is cut off is said at its end.

    Returns:
        Printable text (line ends and tabs stay), at most `length` characters and the note of the cut.
    """
    head = payload[:MAX_BYTES_READ]
    whole = len(head) == len(payload)
    text = _redact_json(head) if whole else None
    if text is None:
        text = _redact_broken(_as_text(head))
        if not whole:
            text = _DIGITS_AT_CUT.sub(REDACTED, text)
    if not text.isprintable():
        text = "".join([char if char.isprintable() or char in "\n\t" else "\ufffd" for char in text])
    if whole and len(text) <= length:
        return text
    return f"{text[:length]}... [cut, {len(payload)} bytes in all]"


def is_secret_key(key: str) -> bool:
    """Whether a field of this name holds card data that must not be kept, whatever its value looks like."""
    return _SECRET_KEY.fullmatch(_NOT_ALPHANUMERIC.sub("", key.lower())) is not None


def _redact_json(payload: bytes) -> str | None:
    """Redacted JSON, or None when the payload is not JSON in UTF-8 (with or without its mark)."""
    try:
        document = orjson.loads(payload.removeprefix(b"\xef\xbb\xbf"))
    except ValueError:
        return None
    if not isinstance(document, dict | list):
        return None
    # Numbers spread over the elements of a list are found in the text only.
    return _blank(orjson.dumps(_redact_value(document, 0)).decode())


def _redact_value(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return _redact_string(value)
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int | float):
        text = repr(value)
        return value if _blank(text) == text else REDACTED
    if depth >= _MAX_DEPTH:
        return MASKED
    if isinstance(value, list):
        return [_redact_value(item, depth + 1) for item in value]
    return {
        _redact_string(key): MASKED if is_secret_key(key) and item is not None else _redact_value(item, depth + 1)
        for key, item in value.items()
    }


def _redact_string(text: str) -> str:
    if _HARMLESS.fullmatch(text):
        return text
    return _blank(_SECRET_VALUE.sub(rf"\1{MASKED}", _uncovered(text)))


def _redact_broken(text: str) -> str:
    text = _blank(_SECRET_VALUE.sub(rf"\1{MASKED}", _uncovered(text)))
    parts: list[str] = []
    position = 0
    for match in _LONG_STRETCH.finditer(plain_digits(text)):
        parts += (text[position : match.start()], REDACTED)
        position = match.end()
    parts.append(text[position:])
    return "".join(parts)


def _blank(text: str) -> str:
    return redact_text(text, _ANY_STRETCH)


def _uncovered(text: str) -> str:
    """`text`, or what its escapes stand for when that shows a stretch of digits or a secret field not seen before."""
    uncovered = text
    for _ in range(3):  # escaped three times over is as far as proxies and logs take it
        before = uncovered
        if "\\" in uncovered:
            uncovered = _UNICODE_ESCAPE.sub(lambda match: chr(int(match[1] or match[2], 16)), uncovered)
        if "%" in uncovered:
            uncovered = urllib.parse.unquote(uncovered)
        if "&" in uncovered:
            uncovered = html.unescape(uncovered)
        if uncovered == before:
            break
    if uncovered == text:
        return text
    return uncovered if _telling(uncovered) != _telling(text) else text


def _telling(text: str) -> tuple[list[str], list[str]]:
    return _ANY_STRETCH.findall(plain_digits(text)), [match[0] for match in _SECRET_VALUE.finditer(text)]


def _as_text(payload: bytes) -> str:
    """The payload's characters: UTF-16 and UTF-32 by their mark or by their zero bytes, else UTF-8."""
    for mark, encoding in (
        (b"\xff\xfe\x00\x00", "utf-32"),
        (b"\x00\x00\xfe\xff", "utf-32"),
        (b"\xff\xfe", "utf-16"),
        (b"\xfe\xff", "utf-16"),
    ):
        if payload.startswith(mark):
            return payload.decode(encoding, "replace")
    text = payload.decode("utf-8", "replace")
    # Text of 16 or 32 bits without a mark is mostly zeros between ASCII characters; without them it reads as ASCII.
    return text.replace("\x00", "") if text.count("\x00") * 3 > len(text) else text
