"""libsodium on rv32imc gives the published answers, and refuses what only strict verifiers refuse."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from device_firmware.host.core import CODES
from device_firmware.host.rv32.bench import Script, Verb
from tests.firmware.rv32.conftest import Run
from tests.vectors.collection import GROUP_ORDER, flip, plus_order

pytestmark = pytest.mark.xdist_group("rv32")

# RFC 8032 section 7.1: public key, message, signature
RFC8032 = (
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
        "d25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c"
        "387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc659"
        "4a7c15e9716ed28dc027beceea1ec40a",
    ),
    (
        "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
        hashlib.sha512(b"abc").hexdigest(),
        "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c66431e030"
        "3dca179c138ac17ad9bef1177331a704",
    ),
)
# FIPS 180-4's examples: message, SHA-256
FIPS180 = (
    (b"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
    (b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
    (
        b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
    ),
    (b"a" * 1_000_000, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"),
)
# RFC 4231's cases whose key is no longer than ours; HMAC pads a key with zeros, so 32 bytes are the same key
RFC4231 = (
    (b"\x0b" * 20, b"Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
    (
        b"Jefe",
        b"what do ya want for nothing?",
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
    ),
)
IDENTITY_POINT = b"\x01" + bytes(31)


def test_rfc_8032_signatures_verify_and_every_broken_one_is_refused(on_chip: Run) -> None:
    script = Script()
    good, bad = [], []
    for public_hex, message_hex, signature_hex in RFC8032:
        public, message, signature = map(bytes.fromhex, (public_hex, message_hex, signature_hex))
        good.append(script.add(Verb.VERIFY, public + signature + message))
        for index in (0, 31, 32, 63):
            bad.append(script.add(Verb.VERIFY, public + flip(signature, index) + message))
        bad.append(script.add(Verb.VERIFY, flip(public, 5) + signature + message))
        bad.append(script.add(Verb.VERIFY, public + signature + message + b"\0"))
        bad.append(script.add(Verb.VERIFY, public + plus_order(signature) + message))
        bad.append(script.add(Verb.VERIFY, public + bytes(64) + message))
    # a key of order 1 "signs" everything for a verifier that does not look
    bad.append(script.add(Verb.VERIFY, IDENTITY_POINT + IDENTITY_POINT + bytes(32) + b"anything"))
    answers = on_chip(script)
    assert [answers[n].result for n in good] == [0] * len(RFC8032)
    assert {answers[n].result for n in bad} == {-CODES["signature"]}
    assert len(bad) == 8 * len(RFC8032) + 1


def test_the_malleable_twin_differs_only_by_the_group_order(on_chip: Run) -> None:
    """The refusal is of S + L and not of a mistake in making it: taking L away again verifies."""
    public, message, signature = (bytes.fromhex(text) for text in RFC8032[2])
    twin = plus_order(signature)
    s = int.from_bytes(twin[32:], "little") - GROUP_ORDER
    script = Script()
    script.add(Verb.VERIFY, public + twin + message)
    script.add(Verb.VERIFY, public + twin[:32] + s.to_bytes(32, "little") + message)
    assert [answer.result for answer in on_chip(script)] == [-CODES["signature"], 0]


def test_sha_256_and_hmac_give_the_published_digests(on_chip: Run) -> None:
    from tests.firmware import artifacts

    script = Script()
    script.identity(
        "dev-7",
        installation_id=artifacts.INSTALLATION,
        class_id=artifacts.CLASS_ID,
        mac_key=artifacts.MAC_KEY,
        roots=[key.public_key for key in artifacts.ROOTS],
        root_threshold=2,
        capacity=4096,
        operators=b"\x80",
    )
    digests = [(script.add(Verb.SHA256, message), digest) for message, digest in FIPS180]
    macs = []
    for key, message, digest in RFC4231:
        assert hmac.new(key, message, "sha256").hexdigest() == digest
        macs.append((script.add(Verb.HMAC, key.ljust(32, b"\0") + message), digest))
    answers = on_chip(script)
    assert [answers[n]["digest"] for n, _ in digests + macs] == [digest for _, digest in digests + macs]
