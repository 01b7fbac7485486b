"""The query language: what it reads, what it refuses and where, and that its text comes back unchanged."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fleet.devices.errors import QueryError
from fleet.devices.query import MAX_CHARS, MAX_COMPARISONS, MAX_DEPTH, parse
from fleet.devices.query_terms import (
    DEVICE_FIELDS,
    Both,
    Comparison,
    Either,
    Kind,
    Value,
    Vocabulary,
    comparisons,
    moment,
    show,
)
from tests.devices.queries import queries


def test_the_designs_example_is_read_as_it_is_meant() -> None:
    found = parse("class==s3-8m;fw=ge=1.4.0;tag==line-2,tag==line-3")
    assert found == Either(
        (
            Both(
                (
                    Comparison("class", "==", (Value("s3-8m"),), Kind.TEXT),
                    Comparison("fw", "=ge=", (Value("1.4.0"),), Kind.VERSION),
                    Comparison("tag", "==", (Value("line-2"),), Kind.SET),
                )
            ),
            Comparison("tag", "==", (Value("line-3"),), Kind.SET),
        )
    )
    assert [one.position for one in comparisons(found)] == [0, 13, 25, 37]


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("( id==a )", "id==a"),
        ("id == 'it\\'s' ; tag=in=( a , b* , * )", 'id=="it\'s";tag=in=(a,b*,*)'),
        ("((id==a;id==b);id==c)", "id==a;id==b;id==c"),
        ("id==a;(id==b,id==c)", "id==a;(id==b,id==c)"),
        ('id==""*', "id==*"),
        ('attr.site=="a\\\\b \\"c\\""', 'attr.site=="a\\\\b \\"c\\""'),
        ("slot.3.digest==ab*,op==3,online!=true", "slot.3.digest==ab*,op==3,online!=true"),
        ("last_seen=lt=-7d;enrolled_at=ge=2026-05-02T12:00:00+02:00", None),
    ],
)
def test_a_query_has_one_canonical_text(text: str, same: str | None) -> None:
    assert show(parse(text)) == (same or text)


@pytest.mark.parametrize(
    ("text", "code", "position", "nearest"),
    [
        ("", "query_syntax", 0, []),
        ("   ", "query_syntax", 3, []),
        ("clas==a", "query_unknown_field", 0, ["class"]),
        ("id==a;tags==b", "query_unknown_field", 6, ["tag"]),
        ("slot.4.model==a", "query_unknown_field", 0, ["slot.<n>.model"]),
        ("attr.Site==a", "query_unknown_field", 0, []),
        ("id", "query_syntax", 2, []),
        ("id=a", "query_syntax", 2, []),
        ("id=lk=a", "query_syntax", 2, ["=le="]),
        ("id=lt=a", "query_syntax", 2, []),
        ("online=gt=true", "query_syntax", 6, []),
        ("id==", "query_syntax", 4, []),
        ("id==a*b", "query_syntax", 5, []),
        ("id==*a", "query_syntax", 4, []),
        ("id==a**", "query_syntax", 5, []),
        ('id=="a', "query_syntax", 6, []),
        ('id==""', "query_syntax", 4, []),
        ("id==a;", "query_syntax", 6, []),
        ("id==a;;id==b", "query_syntax", 6, []),
        ("(id==a", "query_syntax", 6, []),
        ("id==a)", "query_syntax", 5, []),
        ("id==a id==b", "query_syntax", 6, []),
        ("id=in=a", "query_syntax", 6, []),
        ("id=in=()", "query_syntax", 7, []),
        ("id=in=(a", "query_syntax", 8, []),
        ("id=null=yes", "query_syntax", 8, []),
        ("id=null=true*", "query_syntax", 12, []),
        ("online==1", "query_syntax", 8, []),
        ("arena_free=ge=1e3", "query_syntax", 14, []),
        ("arena_free==12*", "query_syntax", 14, []),
        (f"arena_free==9{'9' * 16}", "query_syntax", 12, []),
        ("fw=ge=new", "query_syntax", 6, []),
        ("fw=ge=1*", "query_syntax", 7, []),
        ("attr.floor=gt=two", "query_syntax", 14, []),
        ("last_seen=lt=yesterday", "query_syntax", 13, []),
        ("last_seen=lt=2026-13-01T00:00:00Z", "query_syntax", 13, []),
        ("last_seen=lt=2026-05-02T12:00:00", "query_syntax", 13, []),
        ("last_seen==2026-05-02T12:00:00Z", "query_syntax", 9, []),
        ("id==a\x00", "query_syntax", 5, []),
        ("id==\ud800", "query_syntax", 4, []),
        ("id=='a\nb'", "query_syntax", 4, []),
    ],
)
def test_what_is_wrong_is_named_with_its_place(
    text: str, code: str, position: int, nearest: list[str]
) -> None:
    with pytest.raises(QueryError) as refused:
        parse(text)
    assert (refused.value.code, refused.value.position) == (code, position), refused.value.text
    assert set(nearest) <= set(refused.value.nearest)
    assert refused.value.field == "q"


def test_a_query_is_bounded() -> None:
    at_most = ",".join(["id==a"] * MAX_COMPARISONS)
    assert len(list(comparisons(parse(at_most)))) == MAX_COMPARISONS
    assert parse("(" * MAX_DEPTH + "id==a" + ")" * MAX_DEPTH) == parse("id==a")
    assert parse("id==" + "a" * (MAX_CHARS - 4))
    for text, position in [
        (f"{at_most},id==a", len(at_most) + 1),
        ("(" * (MAX_DEPTH + 1) + "id==a" + ")" * (MAX_DEPTH + 1), MAX_DEPTH),
        ("id==" + "a" * (MAX_CHARS - 3), MAX_CHARS),
    ]:
        with pytest.raises(QueryError) as refused:
            parse(text)
        assert (refused.value.code, refused.value.position) == ("query_syntax", position)


@given(queries())
def test_the_text_of_a_query_reads_back_as_the_same_query(text: str) -> None:
    query = parse(text)
    assert parse(show(query)) == query
    assert show(parse(show(query))) == show(query)


@given(st.text(max_size=80) | st.text(alphabet="idtag=!<>;,()*'\"\\. -017:Zlnu", max_size=60))
@example("(" * 5000)
@example("id=='\\")
@example("id==a;" * 400)
def test_no_text_raises_anything_but_the_coded_error(text: str) -> None:
    refused = None
    try:
        query = parse(text)
    except QueryError as error:
        refused = error
    if refused is None:
        assert parse(show(query)) == query
    else:
        assert refused.code in ("query_syntax", "query_unknown_field")
        assert 0 <= refused.position <= len(text)


def test_times_are_absolute_or_an_age() -> None:
    now = datetime(2026, 5, 2, 12, 0, tzinfo=UTC)
    assert moment("-90s", now) == now - timedelta(seconds=90)
    assert moment("-7d", now) == now - timedelta(days=7)
    assert moment("2026-05-02T14:00:00+02:00", now) == now
    assert moment("-999999d", now) is not None, "an age before every time there is is still a time"
    for text in ("7d", "-7w", "2026-05-02", "0001-01-01T00:00:00+23:59", "now"):
        assert moment(text, now) is None


def test_other_fields_can_join_the_language() -> None:
    fields = Vocabulary({**DEVICE_FIELDS.names, "arm": Kind.TEXT}, DEVICE_FIELDS.families)
    assert parse("arm==control;slot.0.model==kws", fields)
    with pytest.raises(QueryError, match="query_unknown_field"):
        parse("arm==control")
