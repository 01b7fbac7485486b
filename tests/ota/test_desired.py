"""Desired documents and commands: round trips, counters, configuration ranges, and whom they are for."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.mqtt.codec.names import Action, CommandVerb, RefusalCode
from ota.config_ranges import config_errors
from ota.desired import (
    Command,
    Desired,
    DesiredEntry,
    DesiredError,
    counter_trust_version,
    encode_body,
    encode_payload,
    next_counter,
    sign_command,
    sign_desired,
    verify_command,
    verify_desired,
)
from tests.mqtt.strategies import U64, outcome
from tests.ota import documents
from tests.vectors.keys import DEVICE, INSTALLATION, ISSUED, KEYS, MANIFEST_ID, NOW, base_trust

LABELS = {code.label for code in RefusalCode}
TRUST = base_trust()
COUNTER = next_counter(3, ISSUED)
DESIRED = Desired(DEVICE, COUNTER, 3, ISSUED, NOW, {0: DesiredEntry(Action.RUN, MANIFEST_ID)}, {1: 60})
COMMAND = Command(DEVICE, COUNTER, 3, CommandVerb.SELF_TEST, ISSUED, NOW, (0,))


def verify(message: bytes, *, last_counter: int = 0, **changes: Any) -> Desired:
    known: dict[str, Any] = {"device_id": DEVICE, "installation_id": INSTALLATION, "trust": TRUST} | changes
    return verify_desired(message, last_counter=last_counter, **known)


@given(documents.desireds())
def test_a_desired_document_is_read_as_it_was_written(desired: Desired) -> None:
    assert Desired.parse(desired.encode()) == desired


@given(documents.desireds(), st.from_regex(r"\A[a-z0-9][a-z0-9-]{0,31}\Z"))
def test_a_body_is_made_once_for_all_devices_that_are_told_the_same(desired: Desired, other: str) -> None:
    body = encode_body(desired.entries, desired.config)
    for document in (desired, dataclasses.replace(desired, device_id=other)):
        payload = encode_payload(
            body,
            device_id=document.device_id,
            counter=document.counter,
            trust_version=document.trust_version,
            issued=document.issued,
            expires=document.expires,
        )
        assert Desired.parse(payload) == document
        assert payload == document.encode()


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"device_id": "Dev"}, "schema"),
        ({"counter": COUNTER << 1}, "sequence"),
        ({"trust_version": 0}, "schema"),
        ({"issued": -1}, "schema"),
        ({"expires": 2**64}, "schema"),
        ({"body": bytes(2048)}, "too_large"),
    ],
)
def test_a_payload_no_device_would_take_is_not_made(changes: dict[str, Any], code: str) -> None:
    fields: dict[str, Any] = {
        "body": encode_body(DESIRED.entries, DESIRED.config),
        "device_id": DEVICE,
        "counter": COUNTER,
        "trust_version": 3,
        "issued": ISSUED,
        "expires": NOW,
    } | changes
    assert outcome(lambda: encode_payload(fields.pop("body"), **fields))[1] == code


@given(documents.commands())
def test_a_command_is_read_as_it_was_written(command: Command) -> None:
    assert Command.parse(command.encode()) == command


@given(documents.payloads(DESIRED.encode()), documents.payloads(COMMAND.encode()))
def test_any_payload_gives_a_document_or_a_code(desired: bytes, command: bytes) -> None:
    for _, code in (outcome(lambda: Desired.parse(desired)), outcome(lambda: Command.parse(command))):
        assert code == "ok" or code in LABELS


def test_a_signed_document_is_accepted_by_its_device_only() -> None:
    message = sign_desired(DESIRED, KEYS["online"], installation_id=INSTALLATION)
    assert verify(message) == DESIRED
    for changes in (
        {"device_id": "dev-8"},
        {"installation_id": bytes(16)},
        {"trust": base_trust(online=(KEYS["online2"].public_key,))},
    ):
        with pytest.raises(DesiredError) as refused:
            verify(message, **changes)
        assert refused.value.code == "signature"


def test_counters_rise_and_belong_to_the_held_trust_version() -> None:
    message = sign_desired(DESIRED, KEYS["online"], installation_id=INSTALLATION)
    assert verify(message, last_counter=COUNTER - 1) == DESIRED
    for changes, code in (
        ({"last_counter": COUNTER}, "sequence"),
        ({"trust": base_trust(version=4)}, "trust"),
    ):
        with pytest.raises(DesiredError) as refused:
            verify(message, **changes)
        assert refused.value.code == code


def test_a_command_is_for_one_device_and_expires() -> None:
    message = sign_command(COMMAND, KEYS["online"], installation_id=INSTALLATION)
    known: dict[str, Any] = {"installation_id": INSTALLATION, "trust": TRUST}
    assert verify_command(message, device_id=DEVICE, now_s=NOW - 1, **known) == COMMAND
    assert verify_command(message, device_id=DEVICE, **known) == COMMAND
    for device, now, code in ((DEVICE, NOW, "expired"), ("dev-8", NOW - 1, "signature")):
        with pytest.raises(DesiredError) as refused:
            verify_command(message, device_id=device, now_s=now, **known)
        assert refused.value.code == code


def test_a_desired_document_does_not_pass_as_a_command() -> None:
    message = sign_desired(DESIRED, KEYS["online"], installation_id=INSTALLATION)
    with pytest.raises(DesiredError) as refused:
        verify_command(message, device_id=DEVICE, installation_id=INSTALLATION, trust=TRUST)
    assert refused.value.code == "schema"


def test_each_flipped_bit_of_a_signed_desired_document_is_refused() -> None:
    message = sign_desired(DESIRED, KEYS["online"], installation_id=INSTALLATION)
    for index in range(len(message)):
        for bit in range(8):
            bad = message[:index] + bytes((message[index] ^ 1 << bit,)) + message[index + 1 :]
            _, code = outcome(lambda bad=bad: verify(bad))
            assert code in {"schema", "signature"}, (index, bit)


versions = st.integers(1, 2**23 - 1)


@given(versions, st.integers(0, 2**32 - 1), U64, U64)
def test_a_counter_is_above_everything_seen_and_of_its_trust_version(
    version: int, now_s: int, stored: int, reported: int
) -> None:
    counter, code = outcome(lambda: next_counter(version, now_s, stored, reported))
    if code == "ok":
        assert counter > max(stored, reported)
        assert counter_trust_version(counter) == version
        assert counter >= version << 40 | now_s << 8
    else:
        assert code == "sequence"
        assert max(stored, reported) + 1 >= (version + 1) << 40, "refused only when burned"


def test_time_and_the_next_trust_version_heal_burned_counters() -> None:
    burned = (3 << 40) + (ISSUED + 500 << 8)
    assert next_counter(3, ISSUED, reported=burned) == burned + 1
    assert next_counter(3, ISSUED + 501, reported=burned) == (3 << 40) + (ISSUED + 501 << 8)
    assert next_counter(4, ISSUED, reported=(4 << 40) - 1) == (4 << 40) + (ISSUED << 8)
    with pytest.raises(DesiredError):
        next_counter(3, ISSUED, reported=(4 << 40) - 1)


@pytest.mark.parametrize(("version", "now_s"), [(0, 1), (2**23, 1), (1, -1), (1, 2**32)])
def test_a_counter_is_not_made_of_nonsense(version: int, now_s: int) -> None:
    with pytest.raises(ValueError):
        next_counter(version, now_s)


@pytest.mark.parametrize(
    ("config", "wrong"),
    [
        ({}, []),
        (
            {
                1: 1,
                2: 3600,
                3: 10,
                4: 0,
                5: (3, 5),
                6: (127, 1439, 1440),
                7: (50, 300),
                8: 0,
                9: 6000,
                10: 900,
            },
            [],
        ),
        ({1: 0}, [1]),
        ({2: 3601}, [2]),
        ({3: 9}, [3]),
        ({5: (4, 3)}, [5]),
        ({5: 3}, [5]),
        ({5: (1, 2, 3)}, [5]),
        ({6: (0, 0, 1)}, [6]),
        ({7: [1, 86_401]}, [7]),
        ({8: "1"}, [8]),
        ({9: True}, [9]),
        ({10: 86_401}, [10]),
        ({11: 1, 1: 60, 0: 1}, [0, 11]),
    ],
)
def test_configuration_has_ranges(config: dict[int, Any], wrong: list[int]) -> None:
    assert config_errors(config) == wrong


def test_configuration_out_of_range_is_not_signed() -> None:
    with pytest.raises(DesiredError) as refused:
        sign_desired(
            dataclasses.replace(DESIRED, config={2: 0}), KEYS["online"], installation_id=INSTALLATION
        )
    assert refused.value.code == "config_invalid"


@pytest.mark.parametrize(
    "entry",
    [
        DesiredEntry(Action.RUN),
        DesiredEntry(Action.STOP, MANIFEST_ID),
        DesiredEntry(Action.RUN, MANIFEST_ID, attempt=65_536),
        DesiredEntry(Action.RUN, MANIFEST_ID[:16]),
    ],
)
def test_an_entry_that_means_nothing_is_not_encoded(entry: DesiredEntry) -> None:
    with pytest.raises(DesiredError) as refused:
        dataclasses.replace(DESIRED, entries={0: entry}).encode()
    assert refused.value.code == "schema"
