"""A second implementation of COSE, pycose, reads our envelopes and makes the same bytes."""

from __future__ import annotations

from typing import Any

import cbor2
import pytest
from pycose.algorithms import HMAC256, EdDSA
from pycose.headers import KID, Algorithm, ContentType
from pycose.keys import OKPKey, SymmetricKey
from pycose.keys.curves import Ed25519
from pycose.messages import CoseMessage, Mac0Message, Sign1Message, SignMessage
from pycose.messages.signer import CoseSignature

from fleet.mqtt import topics
from fleet.mqtt.codec import cose
from fleet.mqtt.codec.envelope import seal_uplink
from ota.desired import sign_desired
from ota.signing import KeyPair, sign_manifest
from ota.trust import sign_trust
from tests.ota.test_desired import DESIRED
from tests.vectors.keys import (
    DESIRED_AAD,
    DEVICE,
    INSTALLATION,
    KEYS,
    MAC_KEY,
    SEEDS,
    base_manifest,
    base_trust,
)


def okp(name: str) -> OKPKey:
    """A named key as pycose holds it."""
    return OKPKey(crv=Ed25519, x=KEYS[name].public_key, d=SEEDS[name])


@pytest.mark.parametrize(
    ("kind", "names"), [("manifest", ["release", "release2"]), ("trust", ["root", "root2", "root3"])]
)
def test_pycose_verifies_and_makes_our_cose_sign(kind: str, names: list[str]) -> None:
    signers: list[KeyPair] = [KEYS[name] for name in names]
    if kind == "manifest":
        payload, ours = base_manifest().encode(), sign_manifest(base_manifest().encode(), signers)
    else:
        payload, ours = base_trust().encode(), sign_trust(base_trust().encode(), signers)

    read: Any = CoseMessage.decode(ours)
    assert isinstance(read, SignMessage)
    assert read.payload == payload
    assert read.phdr == {ContentType: cose.content_type(kind)}
    assert read.uhdr == {}
    for signature, name in zip(read.signers, names, strict=True):
        assert signature.phdr == {Algorithm: EdDSA, KID: KEYS[name].kid}
        signature.key = okp(name)
        assert signature.verify_signature()
        signature.key = okp("stranger")
        assert not signature.verify_signature()

    made = SignMessage(phdr={ContentType: cose.content_type(kind)}, payload=payload)
    made.signers = [
        CoseSignature(phdr={Algorithm: EdDSA, KID: KEYS[name].kid}, key=okp(name)) for name in names
    ]
    assert made.encode() == ours


def test_pycose_verifies_and_makes_our_cose_sign1() -> None:
    ours = sign_desired(DESIRED, KEYS["online"], installation_id=INSTALLATION)
    read: Any = CoseMessage.decode(ours)
    assert isinstance(read, Sign1Message)
    read.key = okp("online")
    read.external_aad = DESIRED_AAD
    assert read.verify_signature()
    read.external_aad = b""
    assert not read.verify_signature()

    header = {Algorithm: EdDSA, ContentType: cose.content_type("desired"), KID: KEYS["online"].kid}
    made = Sign1Message(phdr=header, payload=DESIRED.encode(), external_aad=DESIRED_AAD, key=okp("online"))
    assert made.encode() == ours


def test_pycose_verifies_and_makes_our_cose_mac0() -> None:
    payload = cbor2.dumps({0: 1}, canonical=True)
    topic = topics.device(DEVICE, "event")
    ours = seal_uplink("event", payload, topic=topic, installation_id=INSTALLATION, key=MAC_KEY)
    aad = cose.external_aad(INSTALLATION, topic)
    read: Any = CoseMessage.decode(ours)
    assert isinstance(read, Mac0Message)
    read.key = SymmetricKey(k=MAC_KEY)
    read.external_aad = aad
    assert read.verify_tag()
    read.external_aad = aad + b"x"
    assert not read.verify_tag()

    header = {Algorithm: HMAC256, ContentType: cose.content_type("event"), KID: cose.mac_kid(MAC_KEY)}
    made = Mac0Message(phdr=header, payload=payload, external_aad=aad, key=SymmetricKey(k=MAC_KEY))
    assert made.encode() == ours
