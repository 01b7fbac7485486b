"""What of a changed OpenAPI document would break who relies on the one before.

Within a version the API only grows. Callers send what was taken and read what was answered, so the two are
compared in opposite directions: a request may not be asked for more, or be refused what was taken; an answer
may not lack what it had, or hold what it could not. Parameters and fields that are not known are refused
here, so to remove one breaks a caller too. A new value of an answer's enumeration is growth: clients of v1
have to live with states that they do not know.

An answer that lists no fields may hold anything: which fields it has is seen by `answers` and not here. It
may begin to list some, and stays open (`additionalProperties`) to the others.

`python -m tests.api.breaking release` makes the committed document the one that later ones are held to. It
refuses while something breaks and the version is the same: then either the change is undone, or `version` in
`fleet/api/routes/__init__.py` takes a step (and the old one is served on, until its sunset).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

RELEASED: Final = Path(__file__).with_name("openapi-released.json")
CURRENT: Final = Path(__file__).resolve().parents[2] / "fleet" / "api" / "openapi.json"
Json = dict[str, Any]
Way = Literal["in", "out"]
_LEAST: Final = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_MOST: Final = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_DEEP: Final = 20


def version(document: Json) -> str:
    """The version that callers name in paths."""
    return str(document["info"]["version"])


def breaks(old: Json, new: Json) -> list[str]:
    """What breaks, a sentence each; empty when `new` only grew."""
    return list(_Comparison(old, new).paths())


class _Comparison:
    def __init__(self, old: Json, new: Json) -> None:
        self._old, self._new = old, new

    def paths(self) -> Iterator[str]:
        for path, methods in self._old["paths"].items():
            for method, before in methods.items():
                name = f"{method.upper()} {path}"
                after = self._new["paths"].get(path, {}).get(method)
                if after is None:
                    yield f"{name} is gone"
                    continue
                for found in self._operation(before, after):
                    yield f"{name}: {found}"

    def _operation(self, old: Json, new: Json) -> Iterator[str]:
        if old.get("operationId") != new.get("operationId"):
            yield f"its name was {old.get('operationId')}"
        if new.get("security") and not old.get("security"):
            yield "it needs a token now"
        yield from self._parameters(old, new)
        yield from self._body(old.get("requestBody"), new.get("requestBody"))
        for status, before in old["responses"].items():
            if status not in new["responses"]:
                yield f"status {status} is gone"
                continue
            after = new["responses"][status].get("content", {})
            for kind, one in before.get("content", {}).items():
                if kind not in after:
                    yield f"answer {status}: {kind} is gone"
                else:
                    yield from self._schemas(f"answer {status}", one, after[kind], "out")

    def _parameters(self, old: Json, new: Json) -> Iterator[str]:
        before = {(one["in"], one["name"]): one for one in old.get("parameters", [])}
        after = {(one["in"], one["name"]): one for one in new.get("parameters", [])}
        for key, one in after.items():
            if one.get("required") and not before.get(key, {}).get("required"):
                yield f"parameter {key[1]} is required now"
        for key, one in before.items():
            if key not in after:
                yield f"parameter {key[1]} is gone"
                continue
            for name in ("style", "explode"):
                if one.get(name) != after[key].get(name):
                    yield f"parameter {key[1]}: {name} is {after[key].get(name)} now"
            yield from self._schemas(f"parameter {key[1]}", one, after[key], "in")

    def _body(self, old: Json | None, new: Json | None) -> Iterator[str]:
        if new is not None and new.get("required") and not (old or {}).get("required"):
            yield "a body is required now"
        if old is None:
            return
        after = (new or {}).get("content", {})
        for kind, one in old["content"].items():
            if kind not in after:
                yield f"a body of {kind} is not taken any more"
            else:
                yield from self._schemas("body", one, after[kind], "in")

    def _schemas(self, where: str, old: Json, new: Json, way: Way) -> Iterator[str]:
        yield from self._schema(where, old.get("schema", {}), new.get("schema", {}), way, 0)

    def _schema(self, where: str, old: Json, new: Json, way: Way, depth: int) -> Iterator[str]:
        if depth > _DEEP:
            return
        before, after = _kinds(self._old, old), _kinds(self._new, new)
        sent, taken = (before, after) if way == "in" else (after, before)
        for kind in sent:  # whoever sends may send this: the other side must know it
            if not {kind, *_WIDER.get(kind, ()), "any"} & set(taken):
                yield f"{where}: {kind} " + (
                    "is not taken any more" if way == "in" else "can be answered now"
                )
        for kind in set(before) & set(after):
            yield from self._same(where, before[kind], after[kind], way, depth)
            if kind == "object":
                yield from self._unlisted(where, before[kind], after[kind], way, depth)

    def _same(self, where: str, old: Json, new: Json, way: Way, depth: int) -> Iterator[str]:
        yield from _values(where, old, new, way)
        if way == "in":
            yield from _limits(where, old, new)
        required, was = set(new.get("required", ())), set(old.get("required", ()))
        for name in sorted(required - was if way == "in" else was - required):
            if way == "in" or name in new.get("properties", {}):
                yield f"{where}/{name} is {'required now' if way == 'in' else 'not always there any more'}"
        for name, one in old.get("properties", {}).items():
            if name not in new.get("properties", {}):
                yield f"{where}/{name} is gone"
            else:
                yield from self._schema(f"{where}/{name}", one, new["properties"][name], way, depth + 1)
        if "items" in old or "items" in new:
            yield from self._schema(f"{where}/*", old.get("items", {}), new.get("items", {}), way, depth + 1)

    def _unlisted(self, where: str, old: Json, new: Json, way: Way, depth: int) -> Iterator[str]:
        """What happened to fields that the document allows and does not list."""
        before, after = _unlisted(old, way), _unlisted(new, way)
        if before is None:
            return
        if after is None:
            yield f"{where}: " + (
                "unknown fields are refused now" if way == "in" else "fields without a list are gone"
            )
            return
        yield from self._schema(f"{where}/{{}}", before, after, way, depth + 1)
        for name, one in new.get("properties", {}).items():
            if before and name not in old.get("properties", {}):
                yield from self._schema(f"{where}/{name}", before, one, way, depth + 1)


_WIDER: Final = {"integer": ("number",)}


def _values(where: str, old: Json, new: Json, way: Way) -> Iterator[str]:
    before, after = _enumerated(old), _enumerated(new)
    if after is None:
        return
    if before is None:
        if way == "in":
            yield f"{where} takes only {', '.join(sorted(map(str, after)))} now"
        return
    for value in sorted(map(str, before - after)):
        yield f"{where}: the value {value} is gone"


def _limits(where: str, old: Json, new: Json) -> Iterator[str]:
    for name in (*_LEAST, *_MOST):
        if name not in new:
            continue
        is_least = name in _LEAST
        if name not in old or (new[name] > old[name] if is_least else new[name] < old[name]):
            yield f"{where}: {name} is {new[name]} now"
    for name in ("pattern", "format", "uniqueItems"):
        if new.get(name) not in (None, False, old.get(name)):
            yield f"{where}: {name} is {new[name]} now"


def _unlisted(schema: Json, way: Way) -> Json | None:
    """What fields hold that an object does not list; None when it has no others.

    Where nothing is said they are taken; but nobody can rely on finding them beside those that are listed.
    """
    is_silent = bool(way == "out" and schema.get("properties"))
    found = schema.get("additionalProperties", not is_silent)
    return found if isinstance(found, dict) else {} if found else None


def _enumerated(schema: Json) -> set[Any] | None:
    if "const" in schema:
        return {schema["const"]}
    return set(schema["enum"]) if "enum" in schema else None


def _kinds(document: Json, schema: Json) -> dict[str, Json]:
    """A schema's alternatives by their type; `any` for one that has none.

    Raises ValueError for two of one type.
    """
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    several = schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf")
    if several:
        pairs = [pair for part in several for pair in _kinds(document, part).items()]
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError(f"alternatives of one type are not compared: {several}")
        return found
    kinds = schema.get("type", "any")
    return dict.fromkeys([kinds] if isinstance(kinds, str) else kinds, schema)


def main(argv: list[str]) -> int:
    """`release`: renew the released document. Returns the exit status."""
    if argv != ["release"]:
        print(__doc__)
        return 2
    old, new = json.loads(RELEASED.read_text()), json.loads(CURRENT.read_text())
    found = breaks(old, new)
    if found and version(old) == version(new):
        print("\n".join(found), f"{len(found)} breaks, and the version is still {version(old)}", sep="\n")
        return 1
    RELEASED.write_text(CURRENT.read_text())
    print(f"version {version(new)} is what later documents are held to")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
