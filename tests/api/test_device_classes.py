"""Device classes over REST: made, changed under their revision, refused with a code."""

from __future__ import annotations

from typing import Any

import pytest

from fleet.devices.models import DeviceClass

pytestmark = pytest.mark.django_db
BODY: dict[str, Any] = {
    "name": "mine", "chip": "esp32c6", "arena_bytes": 65_536, "slot_bytes": [8192, 4096],
    "operators": ["SOFTMAX", 3, '"MyOp"'],
}  # fmt: skip


def test_a_class_is_made_and_changed_under_its_revision(call: Any) -> None:
    made = call("POST", "/device-classes", BODY)
    assert made.status_code == 201
    first = made.json()
    assert (first["operators"], first["custom_operators"], first["rev"]) == ([3, 25], ["MyOp"], 1)
    path = "/device-classes/mine"
    assert call("PATCH", path, {"arena_bytes": 1}).status_code == 428
    changed = call("PATCH", path, {"operators": ["CONV_2D"], "firmware_version": "1.4.0"}, if_match='"1"')
    assert changed.status_code == 200
    assert changed["ETag"] == '"2"'
    assert changed.json()["class_id"] != first["class_id"]
    assert changed.json()["arena_bytes"] == 65_536, "what is absent stays"
    assert call("PATCH", path, {"arena_bytes": 1}, if_match='"1"').status_code == 412
    words = call("PATCH", path, {"description": "a board of mine"}, if_match='"2"').json()
    assert words["class_id"] == changed.json()["class_id"]


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"chip": "z80"}, 422, "validation"),
        ({"slot_bytes": [5000]}, 422, "validation"),
        ({"slot_bytes": [-4096]}, 422, "validation"),
        ({"slot_bytes": []}, 422, "validation"),
        ({"operators": ["TEA"]}, 422, "validation"),
        ({"operators": []}, 422, "validation"),
        ({"operators": ["00003"]}, 422, "validation"),
        ({"operators": ['"a\0b"']}, 422, "validation"),
        ({"operators": [10**40]}, 422, "validation"),
        ({"arena_bytes": 2**31}, 422, "validation"),
        ({"firmware_version": "new"}, 422, "validation"),
        ({"description": "two\nlines"}, 422, "validation"),
        ({"front_end": "mel"}, 422, "validation"),
        ({"name": "Mine"}, 422, "validation"),
    ],
)
def test_what_cannot_be_a_class_is_refused(
    call: Any, changes: dict[str, Any], status: int, code: str
) -> None:
    refused = call("POST", "/device-classes", BODY | changes)
    assert (refused.status_code, refused.json()["code"]) == (status, code)
    assert not DeviceClass.objects.filter(pk__iexact="mine").exists()


def test_a_name_is_taken_once_and_a_change_names_what_exists(call: Any) -> None:
    call("POST", "/device-classes", BODY)
    assert call("POST", "/device-classes", BODY).json()["code"] == "duplicate"
    assert call("PATCH", "/device-classes/none", {}).status_code == 404
    refused = call("PATCH", "/device-classes/mine", {"chip": "esp32"}, if_match="*")
    assert refused.json()["code"] == "validation", "another chip is another class"
