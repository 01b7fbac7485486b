"""Trust documents: round trips, any bytes, what is sane, and who may sign the next one."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given

from fleet.mqtt.codec.names import RefusalCode
from ota.signing import KeyPair
from ota.trust import NameRule, TrustDocument, TrustError, sign_trust, verify_trust
from tests.mqtt.strategies import outcome
from tests.ota import documents
from tests.vectors.keys import KEYS, NOW, base_trust, pub

LABELS = {code.label for code in RefusalCode}
ROOTS = [pub("root"), pub("root2"), pub("root3")]


@given(documents.trusts())
def test_a_trust_document_is_read_as_it_was_written(document: TrustDocument) -> None:
    assert TrustDocument.parse(document.encode()) == document


@given(documents.payloads(base_trust().encode()))
def test_any_payload_gives_a_trust_document_or_a_code(payload: bytes) -> None:
    _, code = outcome(lambda: TrustDocument.parse(payload))
    assert code in {"ok", "schema", "trust"}


@pytest.mark.parametrize(
    "change",
    [
        {"root_threshold": 0},
        {"root_threshold": 4},
        {"release_threshold": 0},
        {"release_threshold": 3},
        {"release": ()},
        {"online": ()},
        {"firmware_threshold": 0},
        {"firmware": ()},
        {"roots": (pub("root"), pub("root"))},
        {"release": (pub("root"),)},
        {"online": (pub("firmware"),)},
        {"revoked": (bytes(8),) * 9},
        {"names": tuple(NameRule(f"m{i}", 1) for i in range(9))},
    ],
)
def test_a_document_no_device_may_live_under_cannot_be_encoded(change: dict[str, Any]) -> None:
    with pytest.raises(TrustError) as refused:
        dataclasses.replace(base_trust(), **change).encode()
    assert refused.value.code == "trust"


def test_the_next_version_needs_the_old_roots_and_its_own() -> None:
    new = base_trust(version=4, roots=(pub("root3"), pub("stranger")), root_threshold=2)
    old_signers, own_signers = [KEYS["root"], KEYS["root2"]], [KEYS["root3"], KEYS["stranger"]]
    both = sign_trust(new.encode(), [*old_signers, *own_signers])
    assert verify_trust(both, roots=ROOTS, threshold=2, min_version=4) == new
    for signers in (old_signers, own_signers, [KEYS["root"], KEYS["root3"]]):
        with pytest.raises(TrustError) as refused:
            verify_trust(sign_trust(new.encode(), signers), roots=ROOTS, threshold=2, min_version=1)
        assert refused.value.code == "trust"


def test_expiry_never_stands_in_the_way_of_a_document_but_blocks_new_manifests() -> None:
    stale = base_trust(expires=NOW)
    signed = sign_trust(stale.encode(), [KEYS["root"], KEYS["root2"]])
    assert verify_trust(signed, roots=ROOTS, threshold=2, min_version=1) == stale
    assert stale.is_expired(NOW)
    assert not stale.is_expired(NOW - 1)
    assert not base_trust(expires=0).is_expired(2**40)


def test_an_older_version_and_too_few_signers_are_refused() -> None:
    payload = base_trust().encode()
    good = sign_trust(payload, [KEYS["root"], KEYS["root3"]])
    for message, minimum in ((good, 4), (sign_trust(payload, [KEYS["root"]] * 2), 1)):
        with pytest.raises(TrustError) as refused:
            verify_trust(message, roots=ROOTS, threshold=2, min_version=minimum)
        assert refused.value.code == "trust"
    with pytest.raises(TrustError):
        verify_trust(good, roots=ROOTS, threshold=0, min_version=1)


def test_revoked_keys_are_not_live() -> None:
    revoked = base_trust(revoked=(KEYS["release"].kid, KEYS["online"].kid, KEYS["firmware"].kid))
    assert revoked.live_release() == (pub("release2"),)
    assert revoked.live_online() == ()
    assert revoked.live_firmware() == ()
    assert revoked.least_seq("har") == 2
    assert revoked.least_seq("other") == 0


def test_a_document_of_the_largest_shape_still_fits_its_message() -> None:
    generated = [KeyPair.from_seed(bytes([i]) * 32) for i in range(1, 13)]
    publics = [pair.public_key for pair in generated]
    largest = base_trust(
        version=2**23 - 1,
        issued=2**33,
        expires=2**33,
        roots=tuple(publics[:4]),
        root_threshold=4,
        release=tuple(publics[4:8]),
        release_threshold=4,
        online=tuple(publics[8:10]),
        firmware=tuple(publics[10:]),
        firmware_threshold=2,
        revoked=tuple(bytes([i]) * 8 for i in range(8)),
        names=tuple(NameRule(f"{i}" * 32, 2**32 - 1, True) for i in range(8)),
    )
    message = sign_trust(largest.encode(), generated[:4])
    assert verify_trust(message, roots=publics[:4], threshold=4, min_version=1) == TrustDocument.parse(
        largest.encode()
    )
