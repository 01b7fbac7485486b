"""What a query selects in PostgreSQL is what the plain reference says, for any fleet and any query."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from hypothesis import HealthCheck, given, settings

from fleet.devices import selection
from fleet.devices.classes import ensure_default_classes
from fleet.devices.errors import GroupError, QueryError
from fleet.devices.models import Device, DeviceClass, DeviceGroup, DeviceSlot, GroupMember
from fleet.devices.query import parse
from fleet.devices.selection import RunName
from fleet.devices.version_order import version_key
from tests.devices.queries import GROUPS, MODELS, NOW, OPERATORS, Facts, fleets, is_meant, queries, run

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Digests and operators of the tests' own world."""
    monkeypatch.setattr(selection, "_names", selection._Names())
    selection.register_names(
        runs=lambda: [RunName(run(name), *name) for name in MODELS], operators=lambda: OPERATORS
    )


@pytest.fixture
def classes(db: None) -> dict[str, tuple[str, int]]:
    ensure_default_classes(NOW)
    return {row.name: (row.chip, row.arena_bytes) for row in DeviceClass.objects.all()}


@contextmanager
def fleet(devices: list[Facts]) -> Iterator[None]:
    """These devices in the database, until the block ends."""
    with transaction.atomic():
        for name in GROUPS[:2]:
            DeviceGroup.objects.create(name=name, kind="static", created_at=NOW, changed_at=NOW)
        DeviceGroup.objects.create(
            name="plant-b", kind="dynamic", q="tag==line-2", created_at=NOW, changed_at=NOW
        )
        Device.objects.bulk_create(
            Device(
                id=one.id,
                device_class_id=one.cls,
                chip=one.chip,
                firmware_version=one.fw,
                firmware_key=version_key(one.fw),
                tags=list(one.tags),
                attributes=dict(one.attributes),
                presence="online" if one.online else "offline",
                last_seen_at=one.last_seen,
                enrolled_at=one.enrolled_at,
                operators=list(one.operators),
            )
            for one in devices
        )
        DeviceSlot.objects.bulk_create(
            DeviceSlot(
                device_id=one.id,
                slot=number,
                state="confirmed",
                run=digest,
                run_seq=seq,
                run_flags=2 if is_stopped else 1,
                arena_used=used,
                updated_at=NOW,
            )
            for one in devices
            for number, (digest, seq, is_stopped, used) in one.slots.items()
        )
        GroupMember.objects.bulk_create(
            GroupMember(group_id=name, device_id=one.id) for one in devices for name in one.groups
        )
        yield
        transaction.set_rollback(True)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(devices=fleets(), text=queries())
def test_sql_and_reference_select_the_same_devices(
    classes: dict[str, tuple[str, int]], devices: list[Facts], text: str
) -> None:
    query = parse(text)
    with fleet(devices):
        found = set(selection.selected(text, now=NOW).values_list("pk", flat=True))
        first = devices[0].id
        kept_out = selection.failing(query, first, now=NOW)
    assert (first in found) == (not kept_out), "what keeps a device out is named, and only then"
    assert all(not is_meant(one, devices[0], classes) for one in kept_out)
    assert found == {one.id for one in devices if is_meant(query, one, classes)}, text


def select(text: str) -> list[str]:
    return sorted(selection.selected(text, now=NOW).values_list("pk", flat=True))


def test_a_missing_value_matches_only_null(classes: object) -> None:
    with fleet([Facts("dev-1", "host-a"), Facts("dev-2", "host-a", tags=("line-1",), fw="1.0.0")]):
        assert select("tag!=line-9") == ["dev-2"]
        assert select("tag=out=(line-9,x)") == ["dev-2"]
        assert select("tag=null=true") == ["dev-1"]
        assert select("tag==*") == ["dev-2"]
        assert select("fw=lt=9") == ["dev-2"]
        assert select("group!=pilot") == []
        assert select("arena_free=null=true") == ["dev-1", "dev-2"]


def test_retired_devices_are_never_selected(classes: object) -> None:
    with fleet([Facts("dev-1", "host-a"), Facts("dev-2", "host-a")]):
        Device.objects.filter(pk="dev-2").update(retired_at=NOW)
        assert select("id==*") == ["dev-1"]


@pytest.mark.parametrize("text", ["group==plant-c", "group!=plant-c", "id==a,group=in=(pilot,plant-c)"])
def test_a_group_that_does_not_exist_selects_nothing_and_says_so(classes: object, text: str) -> None:
    with fleet([Facts("dev-1", "host-a")]), pytest.raises(QueryError) as refused:
        select(text)
    assert refused.value.code == "query_unknown_field"
    assert text[refused.value.position :].startswith("plant-c")
    assert {"plant-a", "plant-b"} <= set(refused.value.nearest)


def test_a_dynamic_group_whose_query_is_none_any_more_names_itself(classes: object) -> None:
    with fleet([Facts("dev-1", "host-a")]):
        DeviceGroup.objects.filter(pk="plant-b").update(q="id==a;was_a_field==1")
        with pytest.raises(GroupError) as refused:
            select("group==plant-b")
    assert (refused.value.code, refused.value.position) == ("group_query_invalid", 6)
    assert "plant-b" in refused.value.text


def test_a_stored_query_never_looks_into_a_dynamic_group(classes: object) -> None:
    with fleet([Facts("dev-1", "host-a", tags=("line-2",))]):
        DeviceGroup.objects.create(
            name="ring", kind="dynamic", q="group==ring", created_at=NOW, changed_at=NOW
        )
        with pytest.raises(GroupError, match="group_query_invalid"):
            select("group==ring")
        with pytest.raises(GroupError, match="group_query_invalid"):
            select("group=null=false")
        DeviceGroup.objects.filter(pk="ring").update(q="group=null=false")
        assert select("group==ring") == [], "in a stored query only static groups count"


def test_a_condition_takes_in_a_bounded_number_of_stored_queries(classes: object) -> None:
    with fleet([]):
        DeviceGroup.objects.bulk_create(
            DeviceGroup(name=f"many-{n}", kind="dynamic", q="id==a", created_at=NOW, changed_at=NOW)
            for n in range(65)
        )
        with pytest.raises(QueryError, match="64"):
            select("id==b;group==many-*")


def test_hostile_values_reach_the_database_as_values(classes: object) -> None:
    facts = Facts("dev-1", "host-a", tags=("100%_\\",), attributes={"site": "9" * 128, "floor": "1e5"})
    with fleet([facts]):
        assert select("tag=='100%_\\\\'") == ["dev-1"]
        assert select("tag=='100%'*") == ["dev-1"]
        assert select("tag=='100_'*") == []
        assert select("attr.site=gt=1") == [], "too long for a number: never cast"
        assert select("attr.floor=lt=1") == []
        assert select("id=='; DROP TABLE devices_device; --'") == []


def test_a_selection_is_one_query_however_many_devices(classes: object) -> None:
    with fleet([]):
        for size in (1, 300):
            Device.objects.bulk_create(
                Device(id=f"d-{size}-{n}", device_class_id="host-a", enrolled_at=NOW) for n in range(size)
            )
            with CaptureQueriesContext(connection) as seen:
                select("tag==a,group==plant-*;slot.0.digest==ab*;arena_free=ge=1;attr.x=gt=3")
            assert len(seen) == 2, "the groups by their names, then the devices"


@pytest.mark.parametrize(
    ("field", "less", "same", "more"),
    [
        ("fw", "1.3.9", "1.4", "1.10.0"),
        ("last_seen", "-3h", "-2h", "-1h"),
        ("enrolled_at", "2026-05-02T11:59:59Z", "2026-05-02T14:00:00+02:00", "2026-05-02T12:00:01Z"),
        ("arena_free", "97303", "97304", "97305"),
        ("slot.0.seq", "2", "3", "4"),
        ("slot.0.version", "1.9.0", "1.10.0", "1.11.0"),
        ("attr.site", "9.4", "9.50", "10"),
    ],
)
def test_an_ordering_takes_in_its_bound_or_not(
    classes: object, field: str, less: str, same: str, more: str
) -> None:
    facts = Facts(
        "dev-1",
        "host-a",
        fw="1.4.0",
        last_seen=NOW - timedelta(hours=2),
        attributes={"site": "9.5"},
        slots={0: (run(("activity", "1.10.0")), 3, False, 1000)},
    )
    with fleet([facts]):
        for comparison, values in {
            "=lt=": [more],
            "=le=": [same, more],
            "=gt=": [less],
            "=ge=": [less, same],
        }.items():
            found = [value for value in (less, same, more) if select(f"{field}{comparison}{value}")]
            assert found == sorted(values, key=[less, same, more].index), comparison
