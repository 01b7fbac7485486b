"""Device classes are named by the digest of what they are."""

from datetime import datetime
from typing import Any

import pytest

from fleet.devices import classes, default_classes
from fleet.devices.errors import ClassError, DeviceError
from fleet.devices.installation import ensure_installation, installation_id
from fleet.devices.models import DeviceClass, Installation
from fleet.mqtt.codec.classes import ClassDescription
from fleet.mqtt.codec.names import Chip
from ota.operators import BUILTIN_CODES, TFLM_BUILTINS

GOOD: dict[str, Any] = {
    "chip": "esp32",
    "arena_bytes": 81_920,
    "slot_bytes": [385_024],
    "operators": [9, 3, "Mine"],
}


@pytest.mark.django_db
def test_default_classes_are_made_once_and_a_changed_one_is_left_alone(now: datetime) -> None:
    assert len(classes.ensure_default_classes(now)) == len(classes.DEFAULT_CLASSES) == 5
    DeviceClass.objects.filter(pk="host-b").update(description="mine")
    assert classes.ensure_default_classes(now) == []
    assert classes.get_class("host-b").description == "mine"
    assert {row.name for row in DeviceClass.objects.all() if row.is_simulated} == {"host-a", "host-b"}
    assert DeviceClass.objects.values("class_id").distinct().count() == 5


@pytest.mark.django_db
def test_the_class_id_is_that_of_the_contract(now: datetime) -> None:
    row = classes.create_class("board-1", **GOOD, now=now)
    described = ClassDescription("board-1", Chip.ESP32, 81_920, (385_024,), (3, 9, "Mine"), "")
    assert row.class_id == described.class_id.hex() == classes.class_id("board-1", **GOOD).hex()
    assert (row.operators, row.custom_operators) == ([3, 9], ["Mine"])
    assert classes.to_wire(row)["operators"] == [3, 9, "Mine"]


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("Board", {}),
        ("", {}),
        ("b", {"chip": "esp8266"}),
        ("b", {"slot_bytes": [1000]}),
        ("b", {"slot_bytes": []}),
        ("b", {"slot_bytes": [4096] * 5}),
        ("b", {"arena_bytes": -1}),
        ("b", {"operators": [32]}),
        ("b", {"operators": [-1]}),
    ],
)
def test_what_is_no_class_is_refused(now: datetime, name: str, change: dict[str, Any]) -> None:
    with pytest.raises(ClassError) as caught:
        classes.create_class(name, **{**GOOD, **change}, now=now)
    assert caught.value.code == "validation"
    assert not DeviceClass.objects.exists()


@pytest.mark.django_db
def test_a_name_is_given_once(now: datetime) -> None:
    classes.create_class("board-1", **GOOD, now=now)
    with pytest.raises(ClassError) as caught:
        classes.create_class("board-1", **GOOD, now=now)
    assert caught.value.code == "duplicate"


@pytest.mark.django_db
def test_an_unknown_class_is_told_with_those_that_exist(now: datetime) -> None:
    classes.create_class("board-1", **GOOD, now=now)
    with pytest.raises(ClassError, match="there are: board-1"):
        classes.get_class("board-2")


def test_the_operator_table_is_that_of_tflm() -> None:
    assert {n: c for n, c in BUILTIN_CODES.items() if c in TFLM_BUILTINS} == default_classes.OPERATORS
    wide, narrow = classes.DEFAULT_CLASSES[:2]
    assert set(narrow.operators) < set(wide.operators)


@pytest.mark.django_db
def test_an_installation_has_one_identity(now: datetime) -> None:
    with pytest.raises(DeviceError, match="not_set_up"):
        installation_id()
    first = ensure_installation(now)
    assert len(first) == 16
    assert ensure_installation(now) == installation_id() == first
    assert Installation.objects.count() == 1
