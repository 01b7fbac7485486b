"""Queries by chance, and what they mean: a reference in plain Python beside the SQL that the product uses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from fleet.devices.query_terms import Comparison, Either, Query

NOW = datetime.fromisoformat("2026-05-02T12:00:00+00:00")
IDS = ["dev-1", "dev-2", "gate-1", "gate-11"]
TAGS = ["line-1", "line-2", "site:berlin", "x y"]
FIRMWARES = ["", "1.0.0", "1.4.0", "1.10.0", "1.4.0-rc.1", "2.0", "dirty-build", "v1.4.0+7"]
MODELS = [("kws", "1.0.0"), ("kws", "2.0.0"), ("activity", "1.10.0"), ("activity", "1.9.0-beta")]
SITES = ["berlin", "10", "9.5", "-3", 'it\'s "here" \\', "münchen"]
GROUPS = ["pilot", "plant-a", "plant-b"]
OPERATORS = {"ADD": 0, "CONV_2D": 3, "CONV_3D": 132, "SOFTMAX": 25}


def queries() -> st.SearchStrategy[str]:
    """The text of a query about what these devices could have."""
    joined = st.sampled_from([";", ",", " ; "])
    return st.recursive(
        _comparisons(),
        lambda inner: (
            st.builds(lambda a, by, b: f"({a}{by}{b})", inner, joined, inner)
            | st.builds(lambda a, by, b: f"{a}{by}{b}", inner, joined, inner)
        ),
        max_leaves=6,
    )


def _comparisons() -> st.SearchStrategy[str]:
    numbers = st.sampled_from(["0", "3", "132", "1000", "-5", "4096"])
    ages = st.sampled_from(["-1h", "-36h", "-7d", "2026-05-01T00:00:00Z", "2026-05-02T13:59:00+02:00"])
    digests = st.sampled_from([run(name) for name in MODELS] + ["AB" * 16, "cd" * 16])
    texts = {
        "id": IDS,
        "class": ["host-a", "host-b"],
        "chip": ["host", "esp32s3"],
        "tag": TAGS,
        "op": [*OPERATORS, "3", "MyOp", "0"],
        "group": GROUPS,
        "fw": FIRMWARES[1:],
        "attr.site": SITES,
        "attr.floor": ["1", "2"],
        "slot.0.model": ["kws", "activity", "none"],
        "slot.1.model": ["kws"],
        "slot.0.version": [version for _, version in MODELS],
    }
    starred = st.sampled_from(sorted(texts)).flatmap(lambda name: _text_comparison(name, texts[name]))
    versions = st.builds(
        "{}{}{}".format, st.sampled_from(["fw", "slot.0.version"]), _ordering(), st.sampled_from(
            ["1.4.0", "1.4", "1.9.0", "2", "1.4.0-rc.2"]
        )
    )  # fmt: skip
    times = st.builds("{}{}{}".format, st.sampled_from(["last_seen", "enrolled_at"]), _ordering(), ages)
    counted = st.builds(
        "{}{}{}".format,
        st.sampled_from(["arena_free", "slot.0.seq", "slot.1.seq"]),
        _ordering() | st.sampled_from(["==", "!="]),
        numbers,
    )
    ordered = st.builds("attr.site{}{}".format, _ordering(), st.sampled_from(["9", "9.5", "-4", "10.000001"]))
    exact = st.builds("slot.0.digest{}{}".format, st.sampled_from(["==", "!="]), digests)
    flags = st.builds("online{}{}".format, st.sampled_from(["==", "!="]), st.sampled_from(["true", "false"]))
    missing = st.builds(
        "{}=null={}".format,
        st.sampled_from([*texts, "last_seen", "arena_free", "slot.0.seq", "slot.0.digest", "online"]),
        st.sampled_from(["true", "false"]),
    )
    return st.one_of(
        starred, versions, versions, times, times, counted, counted, ordered, exact, flags, missing
    )


def _ordering() -> st.SearchStrategy[str]:
    return st.sampled_from(["=lt=", "=le=", "=gt=", "=ge="])


def _text_comparison(name: str, values: Sequence[str]) -> st.SearchStrategy[str]:
    def quoted(text: str) -> str:
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    cut = st.sampled_from(values).flatmap(lambda text: st.integers(0, len(text)).map(lambda n: text[:n]))
    whole = st.sampled_from(values).map(quoted)
    # an exact group that does not exist is an error, and these all exist
    value = whole | cut.map(lambda text: f"{quoted(text)}*")
    single = st.builds(lambda op, one: f"{name}{op}{one}", st.sampled_from(["==", "!="]), value)
    several = st.builds(
        lambda op, many: f"{name}{op}({','.join(many)})",
        st.sampled_from(["=in=", "=out="]),
        st.lists(value, min_size=1, max_size=3),
    )
    return single | several


def run(name: tuple[str, str]) -> str:
    """The digest that stands for a model and version in these tests: 32 hex digits."""
    return f"{MODELS.index(name) + 1:02x}" * 16


@dataclass(frozen=True)
class Facts:
    """A device as the reference sees it. slots: number -> (run, seq, is_stopped, arena_used)."""

    id: str
    cls: str
    chip: str = ""
    fw: str = ""
    tags: tuple[str, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)
    online: bool = False
    last_seen: datetime | None = None
    enrolled_at: datetime = NOW
    operators: tuple[int | str, ...] = ()
    slots: Mapping[int, tuple[str, int | None, bool, int]] = field(default_factory=dict)
    groups: tuple[str, ...] = ()


def fleets() -> st.SearchStrategy[list[Facts]]:
    """A few devices, each with an id of its own."""
    slot = st.tuples(
        st.sampled_from(["", "cd" * 16, *(run(name) for name in MODELS)]),
        st.none() | st.sampled_from([0, 3, 132]),
        st.booleans(),
        st.sampled_from([0, 98_304 - 4096, 1000]),
    )
    return st.lists(
        st.builds(
            Facts,
            id=st.sampled_from(IDS),
            cls=st.sampled_from(["host-a", "host-b"]),
            chip=st.sampled_from(["", "host", "esp32s3"]),
            fw=st.sampled_from(FIRMWARES),
            tags=st.lists(st.sampled_from(TAGS), max_size=3, unique=True).map(lambda t: tuple(sorted(t))),
            attributes=st.dictionaries(
                st.sampled_from(["site", "floor"]), st.sampled_from(SITES), max_size=2
            ),
            online=st.booleans(),
            last_seen=st.none()
            | st.sampled_from([0, 1, 36, 168]).map(lambda hours: NOW - timedelta(hours=hours)),
            enrolled_at=st.sampled_from([0, 1, 36, 168]).map(lambda hours: NOW - timedelta(hours=hours)),
            operators=st.lists(st.sampled_from([0, 3, 132, "MyOp"]), max_size=3, unique=True).map(tuple),
            slots=st.dictionaries(st.sampled_from([0, 1]), slot, max_size=2),
            groups=st.lists(st.sampled_from(GROUPS[:2]), max_size=2, unique=True).map(tuple),
        ),
        min_size=1,
        max_size=4,
        unique_by=lambda facts: facts.id,
    )


def is_meant(query: Query, facts: Facts, classes: Mapping[str, tuple[str, int]]) -> bool:
    """The reference: does the query mean this device? classes: name -> (chip, arena bytes)."""
    if not isinstance(query, Comparison):
        found = [is_meant(part, facts, classes) for part in query.parts]
        return any(found) if isinstance(query, Either) else all(found)
    held = _held(query.field, facts, classes)
    if query.operator == "=null=":
        return (not held) == (query.values[0].text == "true")
    if not held:
        return False
    if query.operator in ("=lt=", "=le=", "=gt=", "=ge="):
        return any(_is_ordered(query, value) for value in held)
    is_equal = any(_equals(query, one.text, one.is_prefix, value) for one in query.values for value in held)
    return not is_equal if query.operator in ("!=", "=out=") else is_equal


def _held(name: str, facts: Facts, classes: Mapping[str, tuple[str, int]]) -> list[Any]:
    chip, arena = classes[facts.cls]
    if name.startswith("slot."):
        _, number, part = name.split(".")
        digest, seq, is_stopped, _ = facts.slots.get(int(number), ("", None, False, 0))
        if not digest or is_stopped:
            return []
        known = {run(named): named for named in MODELS}.get(digest)
        model, version = known if known else (None, None)
        part_of = {"digest": digest, "seq": seq, "model": model, "version": version}[part]
        return [] if part_of is None else [part_of]
    if name.startswith("attr."):
        key = name.removeprefix("attr.")
        return [facts.attributes[key]] if key in facts.attributes else []
    if name == "arena_free":
        return [arena - sum(used for *_, used in facts.slots.values())] if facts.slots else []
    plant_b = ["plant-b"] if "line-2" in facts.tags else []  # the dynamic group of the tests
    return {
        "id": [facts.id],
        "class": [facts.cls],
        "chip": [facts.chip or chip],
        "fw": [facts.fw] if facts.fw else [],
        "tag": list(facts.tags),
        "op": list(facts.operators),
        "group": [*facts.groups, *plant_b],
        "online": [facts.online],
        "last_seen": [facts.last_seen] if facts.last_seen else [],
        "enrolled_at": [facts.enrolled_at],
    }[name]


def _equals(query: Comparison, text: str, is_prefix: bool, value: Any) -> bool:
    if isinstance(value, bool):
        return value == (text == "true")
    if query.field in ("arena_free", "slot.0.seq", "slot.1.seq"):
        return value == int(text)
    if query.field == "op":
        names = {code: name for name, code in OPERATORS.items()}
        name = value if isinstance(value, str) else names[value]
        if is_prefix:
            return name.startswith(text)
        return value == int(text) if text.isdigit() else name == text
    text = text.lower() if query.field == "slot.0.digest" else text
    return value.startswith(text) if is_prefix else value == text


def _is_ordered(query: Comparison, value: Any) -> bool:
    text = query.values[0].text
    if query.field in ("fw", "slot.0.version"):
        pair = (_version(value), _version(text))
    elif query.field.startswith("attr."):
        pair = (_float(value), _float(text))
    elif isinstance(value, datetime):
        ages = {"h": "hours", "d": "days"}
        is_age = text.startswith("-")
        then = (
            NOW - timedelta(**{ages[text[-1]]: int(text[1:-1])}) if is_age else datetime.fromisoformat(text)
        )
        pair = (value, then)
    else:
        pair = (value, int(text))
    if None in pair:
        return False
    one, two = pair
    return {"=lt=": one < two, "=le=": one <= two, "=gt=": one > two, "=ge=": one >= two}[query.operator]


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _version(text: str) -> Any:
    """Precedence as a tuple; independent of the product's sort key."""
    text = text.lstrip("v").partition("+")[0]
    release, _, before = text.partition("-")
    parts = release.split(".")
    if not all(part.isdigit() for part in parts):
        return None
    numbers = tuple(int(part) for part in parts) + (0,) * (4 - len(parts))
    if not before:
        return (*numbers, 1, ())
    words = tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in before.split("."))
    return (*numbers, 0, words)
