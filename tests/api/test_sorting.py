"""Lists in any order that is allowed: pages of any size make up the whole, each row once, while rows come."""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cmp_to_key
from typing import Any

import pytest
from django.db import connection
from django.db.models import Model, QuerySet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleet.accounts.models import ApiToken, AuditEvent, Invitation, Role, User
from fleet.alerts.models import Alert
from fleet.api.errors import ApiProblem
from fleet.api.paging import page
from fleet.api.routes import accounts, alerts, audit, devices, rollouts, users
from fleet.api.sorting import Order, Sorts
from fleet.devices.classes import ensure_default_classes
from fleet.devices.models import Device, DeviceEvent
from fleet.devices.version_order import version_key
from fleet.ids import uuid7
from ota.models import Job
from tests.api.conftest import Caller
from tests.api.test_access import SCOPES

pytestmark = pytest.mark.django_db
NOW = datetime(2026, 5, 2, 12, 0, tzinfo=UTC)
MOMENTS = st.none() | st.integers(0, 3).map(lambda n: NOW + timedelta(microseconds=n))
TOKENS = st.tuples(st.sampled_from("abc"), MOMENTS, MOMENTS)
INVITATIONS = st.tuples(st.sampled_from(Role.values), st.integers(0, 2), MOMENTS)
bounded = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def orders(names: list[str], most: int) -> st.SearchStrategy[str]:
    """What may be asked for: up to `most` fields, each once, up or down."""
    chosen = st.lists(st.sampled_from(names), min_size=1, max_size=most, unique=True)
    signs = st.lists(st.booleans(), min_size=most, max_size=most)
    return st.tuples(chosen, signs).map(
        lambda both: ",".join(("-" if down else "") + name for name, down in zip(*both, strict=False))
    )


def walk(rows: QuerySet[Any], order: Order, limit: int, between: Callable[[], Any]) -> list[Any]:
    """Keys of all pages, one after the other; `between` runs after each."""
    seen: list[Any] = []
    cursor = ""
    while True:
        found = page(rows, order=order, limit=limit, cursor=cursor, filters={}, render=lambda row: row)
        seen += found["items"]
        assert len(found["items"]) == limit or found["next"] is None
        if found["next"] is None:
            return seen
        cursor = found["next"]
        between()


def is_sorted(rows: list[Model], order: Order) -> bool:
    """By Python's own comparison: None is before everything, and last where it descends."""

    def compare(one: Model, other: Model) -> int:
        for part in order.parts:
            a, b = part.value_of(one), part.value_of(other)
            if a != b:
                is_less = b is not None if a is None else b is not None and a < b
                return -1 if is_less != part.is_descending else 1
        return 0

    return sorted(rows, key=cmp_to_key(compare)) == rows


def holds(make: Callable[[Any], Model], rows: QuerySet[Any], sorts: Sorts, asked: str, limit: int,
          first: list[Any], more: list[Any]) -> None:  # fmt: skip
    """Walk over rows made of `first` while one of `more` is added after each page."""
    rows.all().delete()
    there = {make(values).pk for values in first}
    left = list(more)
    seen = walk(rows, sorts.order(asked), limit, lambda: left and make(left.pop()))
    keys = [row.pk for row in seen]
    assert len(set(keys)) == len(keys), "each once"
    assert there <= set(keys), "whoever was there is seen"
    assert is_sorted(seen, sorts.order(asked))


@bounded
@given(
    st.lists(TOKENS, max_size=12),
    st.lists(TOKENS, max_size=4),
    st.integers(1, 5),
    orders(["created_at", "name", "owner", "expires_at", "last_used_at"], 3),
)
def test_pages_of_tokens_make_up_the_sorted_whole(
    make_user: Any, first: list[Any], more: list[Any], limit: int, asked: str
) -> None:
    owners = [
        User.objects.filter(username=name).first() or make_user("admin", name) for name in ("anna", "bert")
    ]

    def make(values: Any) -> Model:
        name, expires, used = values
        return ApiToken.objects.create(
            public_id=uuid7().hex[-16:], digest=b"", name=name, owner=owners[len(name + str(used)) % 2],
            created_at=NOW, expires_at=expires, last_used_at=used,
        )  # fmt: skip

    holds(make, ApiToken.objects.select_related("owner"), accounts.SORTS, asked, limit, first, more)


@bounded
@given(
    st.lists(INVITATIONS, max_size=12),
    st.lists(INVITATIONS, max_size=4),
    st.integers(1, 5),
    orders(["id", "role", "expires_at", "used_at"], 2),
)
def test_pages_in_an_order_of_ranks_make_up_the_sorted_whole(
    first: list[Any], more: list[Any], limit: int, asked: str
) -> None:
    def make(values: Any) -> Model:
        role, days, used = values
        return Invitation.objects.create(
            digest=uuid7().bytes, role=role, made_by="a", made_at=NOW, used_at=used,
            expires_at=NOW + timedelta(days=days),
        )  # fmt: skip

    holds(make, Invitation.objects.all(), users.INVITATION_SORTS, asked, limit, first, more)


def make_devices(*rows: tuple[str, str, int | None]) -> None:
    """Devices of (id, firmware, seconds since it was last seen or None)."""
    ensure_default_classes(NOW)
    for name, firmware, seconds in rows:
        seen = None if seconds is None else NOW - timedelta(seconds=seconds)
        Device.objects.create(
            id=name, device_class_id="host-a", enrolled_at=NOW, firmware_version=firmware,
            firmware_key=version_key(firmware), last_seen_at=seen,
        )  # fmt: skip


def ids(call: Caller, path: str) -> list[str]:
    answer = call("GET", path)
    assert answer.status_code == 200, answer.json()
    return [item["id"] for item in answer.json()["items"]]


def test_devices_are_listed_by_firmware_and_by_silence(call: Caller) -> None:
    make_devices(("a", "1.10.0", 5), ("b", "1.9.0", None), ("c", "1.9.0", 60))
    assert ids(call, "/devices") == ["a", "b", "c"]
    assert ids(call, "/devices?sort=-id") == ["c", "b", "a"]
    assert ids(call, "/devices?sort=firmware") == ["b", "c", "a"], "1.10 is newer than 1.9"
    assert ids(call, "/devices?sort=-firmware") == ["a", "c", "b"]
    assert ids(call, "/devices?sort=-last_seen_at") == ["a", "c", "b"], "never is no newest"
    first = call("GET", "/devices?sort=last_seen_at&limit=1").json()
    assert [item["id"] for item in first["items"]] == ["b"]
    assert ids(call, f"/devices?sort=last_seen_at&limit=5&cursor={first['next']}") == ["c", "a"]


def test_a_cursor_belongs_to_its_order(call: Caller) -> None:
    make_devices(("a", "1.0.0", 1), ("b", "1.0.0", 2))
    cursor = call("GET", "/devices?limit=1&sort=firmware").json()["next"]
    for other in ("", "&sort=id", "&sort=-firmware"):
        answer = call("GET", f"/devices?limit=1{other}&cursor={cursor}")
        assert (answer.status_code, answer.json()["code"]) == (400, "cursor_mismatch"), other
    assert ids(call, f"/devices?limit=1&sort=firmware&cursor={cursor}") == ["b"]
    plain = call("GET", "/devices?limit=1").json()["next"]
    assert ids(call, f"/devices?limit=1&sort=id&cursor={plain}") == ["b"], "the default is the same order"


@pytest.mark.parametrize(
    ("asked", "code", "position"),
    [
        ("colour", "query_unknown_field", 0),
        ("name,-colour", "query_unknown_field", 5),
        ("name,", "query_unknown_field", 5),
        ("--name", "query_unknown_field", 0),
        ("name,-name", "query_syntax", 5),
        ("name,kind,created_at,changed_at", "query_syntax", 21),
    ],
)
def test_an_order_that_is_none_is_refused_with_what_is_allowed(
    call: Caller, asked: str, code: str, position: int
) -> None:
    answer = call("GET", f"/groups?sort={asked}")
    told = answer.json()
    assert (answer.status_code, told["code"], told["position"]) == (400, code, position)
    assert told["allowed"] == ["name", "kind", "created_at", "changed_at"]
    assert told["errors"][0]["pointer"] == "/sort"


def test_a_long_list_takes_one_field(call: Caller) -> None:
    assert call("GET", "/devices?sort=firmware,enrolled_at").json()["code"] == "query_syntax"


def test_every_list_with_pages_has_an_order_and_its_document_names_it(call: Caller) -> None:
    from fleet.api.routes import api

    paths = json.loads(json.dumps(api.get_openapi_schema()))["paths"]
    for operation in (name for name in SCOPES if name.startswith("GET ")):
        described = paths[f"/api/v1{operation.split()[1]}"]["get"]["parameters"]
        by_name = {one["name"]: one for one in described}
        assert ("cursor" in by_name) == ("sort" in by_name), operation
        if "sort" not in by_name:
            continue
        names = by_name["sort"]["schema"]["items"]["enum"]
        assert (by_name["sort"]["style"], by_name["sort"]["explode"]) == ("form", False)
        if "{" not in operation:
            for name in names:
                answer = call("GET", f"{operation.split()[1]}?sort={name}")
                assert answer.status_code == 200, (operation, name, answer.json())
            answer = call("GET", f"{operation.split()[1]}?sort=colour")
            assert answer.json()["code"] == "query_unknown_field", operation
            assert {name.removeprefix("-") for name in names} == set(answer.json()["allowed"]), operation


def test_a_default_that_is_no_order_fails_when_it_is_declared() -> None:
    with pytest.raises(ApiProblem):
        Sorts(Device, {"id": "id"}, default="name")


@pytest.mark.parametrize(
    ("sorts", "asked", "index", "narrowed"),
    [
        (devices.SORTS, "id", "devices_device_pkey", {}),
        (devices.SORTS, "enrolled_at", "device_enrolled", {}),
        (devices.SORTS, "firmware", "device_firmware", {}),
        (alerts.SORTS, "last_seen_at", "alert_last_seen", {}),
        (alerts.SORTS, "severity", "alert_severity", {}),
        (rollouts.JOB_SORTS, "device", "job_rollout_device", {"rollout": uuid7()}),
    ],
)
@pytest.mark.parametrize("sign", ["", "-"])
def test_an_order_of_a_long_list_is_read_from_its_index(
    sorts: Sorts, asked: str, index: str, narrowed: dict[str, Any], sign: str
) -> None:
    """However few rows there are, so: with sorting and sequential scans made dear, a plan that needs neither
    is found exactly when the index has the order.
    """
    plan = planned(sorts, sign + asked, narrowed, is_incremental=False)
    assert index in plan, plan
    assert "Sort" not in plan, plan


@pytest.mark.parametrize(
    ("sorts", "narrowed"), [(audit.SORTS, {}), (devices.EVENT_SORTS, {"device": "dev-1"})]
)
@pytest.mark.parametrize("asked", ["at", "-at"])
def test_rows_of_one_moment_are_put_in_order_as_they_are_read(
    sorts: Sorts, narrowed: dict[str, Any], asked: str
) -> None:
    """The index has the moment and not the key: no more is sorted than rows that share a moment."""
    plan = planned(sorts, asked, narrowed, is_incremental=True)
    assert "Incremental Sort" in plan, plan
    assert re.search(r"Presorted Key: at\b", plan), plan
    assert re.search(r"Index Scan.* using \w*(_at_|timeline)", plan), plan


def planned(sorts: Sorts, asked: str, narrowed: dict[str, Any], *, is_incremental: bool) -> str:
    """How PostgreSQL reads a page when it may not sort the whole, nor read the whole table."""
    models: dict[Sorts, Any] = {
        devices.SORTS: Device, devices.EVENT_SORTS: DeviceEvent, alerts.SORTS: Alert,
        rollouts.JOB_SORTS: Job, audit.SORTS: AuditEvent,
    }  # fmt: skip
    order = sorts.order(asked)
    ranks = {part.path: part.rank.expression() for part in order.parts if part.rank}
    rows = models[sorts].objects.filter(**narrowed).alias(**ranks).order_by(*(p.by() for p in order.parts))
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_sort = off")
        cursor.execute(f"SET LOCAL enable_incremental_sort = {'on' if is_incremental else 'off'}")
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute("SET LOCAL enable_bitmapscan = off")
    return str(rows[:51].explain())
