"""The query language: one text that selects devices, in lists, targets, groups, alerts and telemetry filters.

    query      = any                         ; at most 2,000 characters
    any        = all *( "," all )            ; or
    all        = term *( ";" term )          ; and: binds tighter than or
    term       = "(" any ")" / comparison    ; at most 16 deep, at most 64 comparisons
    comparison = field ( "==" / "!=" / "=lt=" / "=le=" / "=gt=" / "=ge=" ) value
               / field ( "=in=" / "=out=" ) "(" value *( "," value ) ")"
               / field "=null=" ( "true" / "false" )
    value      = ( plain / quoted ) [ "*" ]  ; a star at the end: every value that begins so

A subset of FIQL (M. Nottingham, draft-nottingham-atompub-fiql-00, 2007) with `=in=`, `=out=` and `=null=`.
Quoted is between " or ', a backslash takes the next character as it is. Blanks between parts do not count. A
value that is missing matches only `=null=true`, never `!=` or `=out=`.

Bare Python. What a comparison selects in the database is `fleet.devices.selection`'s.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from fleet.devices.errors import QueryError
from fleet.devices.query_terms import (
    DEVICE_FIELDS,
    OPERATORS,
    ORDERING,
    PLAIN,
    Both,
    Comparison,
    Either,
    Kind,
    Query,
    Value,
    Vocabulary,
    decimal,
    moment,
)
from fleet.devices.version_order import version_key

MAX_CHARS: Final = 2_000
MAX_COMPARISONS: Final = 64
MAX_DEPTH: Final = 16
_LARGEST: Final = 2**53
_NUMBER: Final = re.compile(r"-?[0-9]{1,16}")
_FIELD: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*", re.ASCII)
_OPERATOR: Final = re.compile(r"==|!=|=[a-z]*=")
_ANY_TIME: Final = datetime(2000, 1, 1, tzinfo=UTC)
_TAKES: Final[dict[Kind, tuple[str, ...]]] = {
    Kind.TEXT: ("==", "!=", "=in=", "=out=", "=null="),
    Kind.SET: ("==", "!=", "=in=", "=out=", "=null="),
    Kind.VERSION: OPERATORS,
    Kind.ATTRIBUTE: OPERATORS,
    Kind.NUMBER: OPERATORS,
    Kind.TIME: (*ORDERING, "=null="),
    Kind.FLAG: ("==", "!=", "=null="),
}
_STARRED: Final = frozenset({Kind.TEXT, Kind.SET, Kind.VERSION, Kind.ATTRIBUTE})


def parse(text: str, fields: Vocabulary = DEVICE_FIELDS) -> Query:
    """Read a query. Raises QueryError `query_syntax` or `query_unknown_field` with the position."""
    return _Parser(text, fields).whole()


class _Parser:
    """Recursive descent over one text; its depth is bounded by MAX_DEPTH."""

    def __init__(self, text: str, fields: Vocabulary) -> None:
        self.text = text
        self.fields = fields
        self.at = 0
        self.count = 0

    def whole(self) -> Query:
        if len(self.text) > MAX_CHARS:
            raise self._wrong(
                f"a query has at most {MAX_CHARS:,} characters, this has {len(self.text):,}", MAX_CHARS
            )
        for index, char in enumerate(self.text):
            if unicodedata.category(char) in ("Cc", "Cs") and char not in " \t\r\n":
                raise self._wrong("a character that no query may hold", index)
        query = self._any(0)
        if self._peek():
            more = (
                "a parenthesis that was never opened" if self._peek() == ")" else "expected ; or , or the end"
            )
            raise self._wrong(more)
        return query

    def _any(self, depth: int) -> Query:
        parts = self._joined(",", lambda: self._all(depth))
        flat = [inner for part in parts for inner in (part.parts if isinstance(part, Either) else (part,))]
        return flat[0] if len(flat) == 1 else Either(tuple(flat))

    def _all(self, depth: int) -> Query:
        parts = self._joined(";", lambda: self._term(depth))
        flat = [inner for part in parts for inner in (part.parts if isinstance(part, Both) else (part,))]
        return flat[0] if len(flat) == 1 else Both(tuple(flat))

    def _joined(self, by: str, one: Callable[[], Query]) -> list[Query]:
        parts = [one()]
        while self._peek() == by:
            self.at += 1
            parts.append(one())
        return parts

    def _term(self, depth: int) -> Query:
        if self._peek() != "(":
            return self._comparison()
        opened = self.at
        if depth >= MAX_DEPTH:
            raise self._wrong(f"parentheses nest at most {MAX_DEPTH} deep")
        self.at += 1
        inner = self._any(depth + 1)
        if self._peek() != ")":
            raise self._wrong(f"expected ) for the ( at position {opened}")
        self.at += 1
        return inner

    def _comparison(self) -> Comparison:
        self._peek()
        start = self.at
        found = _FIELD.match(self.text, self.at)
        if found is None:
            raise self._wrong(
                "expected a field, as in class==s3-8m" if self.at < len(self.text) else self._short()
            )
        if self.count >= MAX_COMPARISONS:
            raise self._wrong(f"a query has at most {MAX_COMPARISONS} comparisons")
        self.count += 1
        name = found[0]
        self.at = found.end()
        kind = self.fields.kind_of(name)
        if kind is None:
            raise self._unknown(name, start)
        operator = self._operator(name, kind)
        if operator in ("=in=", "=out="):
            values = self._list(kind, operator)
        else:
            values = (self._value(Kind.FLAG if operator == "=null=" else kind, operator),)
        return Comparison(name, operator, values, kind, start)

    def _operator(self, name: str, kind: Kind) -> str:
        self._peek()
        found = _OPERATOR.match(self.text, self.at)
        if found is None:
            raise self._wrong(f"expected an operator after {name}: one of {' '.join(_TAKES[kind])}")
        if found[0] not in OPERATORS:
            near = difflib.get_close_matches(found[0], OPERATORS, n=3, cutoff=0.5)
            raise self._wrong(f"there is no operator {found[0]}", nearest=near)
        if found[0] not in _TAKES[kind]:
            raise self._wrong(f"{name} is {kind.value} and takes {' '.join(_TAKES[kind])}, not {found[0]}")
        self.at = found.end()
        return found[0]

    def _list(self, kind: Kind, operator: str) -> tuple[Value, ...]:
        if self._peek() != "(":
            raise self._wrong(f"expected ( after {operator}")
        self.at += 1
        values = [self._value(kind, operator)]
        while self._peek() == ",":
            self.at += 1
            values.append(self._value(kind, operator))
        if self._peek() != ")":
            raise self._wrong("expected , or ) in a list of values")
        self.at += 1
        return tuple(values)

    def _value(self, kind: Kind, operator: str) -> Value:
        char = self._peek()
        start = self.at
        text = self._quoted(char) if char in ("'", '"') and char else self._plain()
        is_prefix = self.text.startswith("*", self.at)
        if is_prefix:
            self.at += 1
            if operator in ORDERING or operator == "=null=" or kind not in _STARRED:
                raise self._wrong("a star means every value that begins so: not possible here", self.at - 1)
        if not text and not is_prefix:
            raise self._wrong("a value is empty; =null=true selects what is missing", start)
        if self.text.startswith("*", self.at) or PLAIN.match(self.text, self.at):
            where = self.at - 1 if is_prefix else self.at
            raise self._wrong(
                "a star stands only at the end of a value" if is_prefix else "unexpected text", where
            )
        self._check(kind, operator, text, start)
        return Value(text, is_prefix, start)

    def _plain(self) -> str:
        found = PLAIN.match(self.text, self.at)
        if found is None:
            if self.text.startswith("*", self.at):
                return ""
            raise self._wrong("expected a value" if self.at < len(self.text) else self._short())
        self.at = found.end()
        return found[0]

    def _quoted(self, mark: str) -> str:
        start, made = self.at, []
        self.at += 1
        while self.at < len(self.text) and self.text[self.at] != mark:
            self.at += self.text[self.at] == "\\"
            made.append(self.text[self.at : self.at + 1])
            self.at += 1
        if self.at >= len(self.text):
            raise self._wrong(f"the quote at position {start} is never closed", len(self.text))
        self.at += 1
        text = "".join(made)
        if any(unicodedata.category(char) == "Cc" for char in text):
            raise self._wrong("a value holds a control character", start)
        return text

    def _check(self, kind: Kind, operator: str, text: str, at: int) -> None:
        if kind is Kind.FLAG and text not in ("true", "false"):
            raise self._wrong("expected true or false", at)
        if kind is Kind.NUMBER and not (_NUMBER.fullmatch(text) and abs(int(text)) <= _LARGEST):
            raise self._wrong("expected a whole number", at)
        if kind is Kind.TIME and moment(text, _ANY_TIME) is None:
            raise self._wrong("expected a time as 2026-05-02T12:00:00Z, or an age as -15m, -12h, -7d", at)
        if operator in ORDERING and kind is Kind.VERSION and not version_key(text):
            raise self._wrong("expected a version as 1.4.0", at)
        if operator in ORDERING and kind is Kind.ATTRIBUTE and decimal(text) is None:
            raise self._wrong("attributes are ordered as numbers: expected a number", at)

    def _peek(self) -> str:
        """The next character that is no blank, "" at the end; `at` stands on it afterwards."""
        while self.at < len(self.text) and self.text[self.at] in " \t\r\n":
            self.at += 1
        return self.text[self.at : self.at + 1]

    def _short(self) -> str:
        return "the query ends too early" if self.text.strip() else "a query is empty"

    def _wrong(self, text: str, at: int | None = None, nearest: list[str] | None = None) -> QueryError:
        position = self.at if at is None else at
        return QueryError(
            "query_syntax", f"{text} (position {position})", position=position, nearest=nearest or []
        )

    def _unknown(self, name: str, at: int) -> QueryError:
        known = self.fields.shown()
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        text = f"there is no field {name[:40]!r} (position {at}); fields: {' '.join(known)}"
        return QueryError("query_unknown_field", text, position=at, nearest=near)
