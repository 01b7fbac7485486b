"""Vectors of what the online key signs: desired and cmd."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fleet.mqtt import topics
from fleet.mqtt.codec import cose
from fleet.mqtt.codec.cbor import encode
from fleet.mqtt.codec.names import Action, CommandVerb
from ota.desired import Command, Desired, DesiredEntry, next_counter
from tests.vectors import keys as k
from tests.vectors.collection import (
    Collection,
    broken_messages,
    broken_payloads,
    changed,
    edit,
    flip,
    pack,
    plus_order,
    setting,
    sign1_payload,
    sign_payload,
    unpack,
    without,
)

RELEASE, STRANGER, ONLINE = k.KEYS["release"], k.KEYS["stranger"], k.KEYS["online"]


def desired() -> Collection:
    """desired.json."""
    context = {
        "installation_id": k.INSTALLATION.hex(),
        "device_id": k.DEVICE,
        "topic": topics.desired(k.DEVICE),
        "trust": k.signed_trust(k.base_trust()).hex(),
        "last_counter": next_counter(3, k.ISSUED - 1),
        "now": k.NOW,
    }
    out = Collection("desired", context)
    run = DesiredEntry(Action.RUN, k.MANIFEST_ID, attempt=1)
    base = Desired(
        k.DEVICE, next_counter(3, k.ISSUED), 3, k.ISSUED, k.ISSUED + 1000, {0: run}, {1: 60, 5: (3, 5)}
    )
    payload = base.encode()

    def signed(body: bytes, aad: bytes = k.DESIRED_AAD) -> bytes:
        return sign1_payload("desired", body, ONLINE, aad)

    out.add("run a manifest in slot 0", signed(payload), "ok")
    entries: dict[str, dict[int, DesiredEntry]] = {
        "four slots": dict.fromkeys(range(4), run),
        "nothing in any slot": {},
        "run from the other bank": {0: DesiredEntry(Action.RUN_OTHER_BANK, k.MANIFEST_ID, 5, 6, 65_535)},
        "stop slot 2": {2: DesiredEntry(Action.STOP)},
    }
    for name, slots in entries.items():
        item = Desired(k.DEVICE, base.counter, 3, k.ISSUED, 0, slots)
        out.add(name, signed(item.encode()), "ok")
    out.add("past its expiry, which is stale and not refused", signed(changed(payload, setting(7, 1))), "ok")
    for name, config, invalid in _configs():
        out.add(name, signed(changed(payload, setting(5, config))), "ok", config_invalid=invalid)
    _add_sign1_faults(out, "desired", payload, k.DESIRED_AAD)
    high = 3 << 40
    for name, key, value, code in (
        ("format 2", 0, 2, "schema"),
        ("a device id of 33 bytes", 1, "d" * 33, "schema"),
        ("a device id with a slash", 1, "a/b", "schema"),
        ("another device's id", 1, "dev-8", "signature"),
        ("a counter of another trust version", 2, (4 << 40) | base.counter & (2**40 - 1), "sequence"),
        ("the last counter again with other bytes", 2, context["last_counter"], "sequence"),
        ("a counter far below the last", 2, high | 1, "sequence"),
        ("a counter of text", 2, "9", "schema"),
        ("entries that are an array", 4, [], "schema"),
        ("slot 4", 4, {4: [0, k.MANIFEST_ID, 0, 0, 0]}, "schema"),
        ("an entry of four numbers", 4, {0: [0, k.MANIFEST_ID, 0, 0]}, "schema"),
        ("a digest of 16 bytes", 4, {0: [0, k.MANIFEST_ID[:16], 0, 0, 0]}, "schema"),
        ("an attempt of 17 bits", 4, {0: [0, k.MANIFEST_ID, 0, 0, 65_536]}, "schema"),
        ("a stop that names a manifest", 4, {0: [2, k.MANIFEST_ID, 0, 0, 0]}, "schema"),
        ("a run that names none", 4, {0: [0, bytes(32), 0, 0, 0]}, "schema"),
        ("configuration that is an array", 5, [], "schema"),
        ("issued before 1970", 6, -1, "schema"),
        ("a key that format 1 lacks", 8, 0, "schema"),
    ):
        out.add(f"with {name}", signed(changed(payload, setting(key, value))), code)
    unknown = changed(payload, setting(4, {0: [3, k.MANIFEST_ID, 0, 0, 0]}))
    out.add("with an action that is not known", signed(unknown), "unknown_action")
    for key in range(8):
        out.add(f"without key {key}", signed(changed(payload, without(key))), "schema")
    ahead = changed(payload, edit({2: next_counter(4, k.ISSUED), 3: 4}))
    out.add("for a trust version that is not held yet", signed(ahead), "trust")
    behind = changed(payload, edit({2: next_counter(2, k.ISSUED), 3: 2}))
    out.add("for an older trust version", signed(behind), "trust", context={"last_counter": 0})
    return out


def _configs() -> Iterator[tuple[str, dict[int, Any], list[int]]]:
    least = {1: 1, 2: 1, 3: 10, 4: 0, 5: [1, 1], 6: [1, 0, 1], 7: [0, 0], 8: 0, 9: 0, 10: 1}
    most = {1: 86_400, 2: 3_600, 3: 3_600_000, 4: 2**31 - 1, 5: [64, 64], 6: [127, 1439, 1440]}
    most |= {7: [100_000, 86_400], 8: 1_000_000, 9: 6_000, 10: 86_400}
    yield "configuration of least values", least, []
    yield "configuration of largest values", most, []
    below = {1: 0, 2: 0, 3: 9, 5: [0, 5], 6: [0, 0, 1], 10: 0}
    above = {1: 86_401, 2: 3_601, 3: 3_600_001, 4: 2**31, 5: [1, 65], 6: [128, 0, 1], 8: 1_000_001, 9: 6_001}
    above |= {10: 86_401}
    yield "configuration below the ranges", below, [1, 2, 3, 5, 6, 10]
    yield "configuration above the ranges", above, [1, 2, 3, 4, 5, 6, 8, 9, 10]
    yield "an alarm that wants more hits than it looks at", {5: [4, 3]}, [5]
    yield "a configuration key that version 1 lacks", {1: 60, 20: 1}, [20]
    yield "one bad configuration value beside a good one", {1: 60, 2: 9_999}, [2]


def _add_sign1_faults(out: Collection, kind: str, payload: bytes, aad: bytes) -> None:
    """What can be wrong with the envelope of a COSE_Sign1 message."""
    good = sign1_payload(kind, payload, ONLINE, aad)
    for name, bad in broken_messages(good, cose.TAG_SIGN1):
        out.add(name, bad, "schema")
    for name, bad in broken_payloads(payload):
        out.add(name, sign1_payload(kind, bad, ONLINE, aad), "schema")
    other = "cmd" if kind == "desired" else "desired"
    ct, kid = cose.content_type(kind), ONLINE.kid
    for name, header in (
        (f"the content type of a {other}", cose.sign1_header(other, kid)),
        ("the content type of a manifest", cose.sign1_header("manifest", kid)),
        ("algorithm ES256", encode({1: -7, 3: ct, 4: kid})),
        ("a kid of 4 bytes", encode({1: -8, 3: ct, 4: kid[:4]})),
        ("no content type", encode({1: -8, 4: kid})),
        ("one key more in its header", encode({1: -8, 3: ct, 4: kid, 5: b""})),
    ):
        out.add(f"with {name}", sign1_payload(kind, payload, ONLINE, aad, header=header), "schema")
    header, _, _, signature = unpack(good)

    def resigned(new: bytes) -> bytes:
        return pack(cose.TAG_SIGN1, header, {}, payload, new)

    out.add("a signature of 63 bytes", resigned(signature[:63]), "schema")
    out.add("one flipped bit in the signature", resigned(flip(signature, 5)), "signature")
    out.add("the malleable twin S + L", resigned(plus_order(signature)), "signature")
    bent = pack(cose.TAG_SIGN1, header, {}, flip(payload, len(payload) - 1), signature)
    out.add("one flipped bit in the payload", bent, "signature")
    out.add("signed by a stranger", sign1_payload(kind, payload, STRANGER, aad), "signature")
    out.add("signed by the release key", sign1_payload(kind, payload, RELEASE, aad), "signature")
    revoked = k.signed_trust(k.base_trust(revoked=(ONLINE.kid,))).hex()
    out.add("signed by a revoked online key", good, "signature", context={"trust": revoked})
    elsewhere = cose.external_aad(bytes(16), topics.device(k.DEVICE, kind))
    out.add("of another installation", sign1_payload(kind, payload, ONLINE, elsewhere), "signature")
    stray = cose.external_aad(k.INSTALLATION, topics.device("dev-8", kind))
    out.add("signed for another device's topic", sign1_payload(kind, payload, ONLINE, stray), "signature")
    crossed = cose.external_aad(k.INSTALLATION, topics.device(k.DEVICE, other))
    out.add(f"signed for the topic of {other}", sign1_payload(kind, payload, ONLINE, crossed), "signature")
    out.add("signed without external data", sign1_payload(kind, payload, ONLINE, b""), "signature")
    as_sign = sign_payload(kind, payload, ONLINE, aad=aad)
    out.add("a COSE_Sign of the same content type", as_sign, "schema")
    out.add("2049 bytes", good + bytes(cose.MAX_SIGNED_BYTES + 1 - len(good)), "too_large")


def cmd() -> Collection:
    """cmd.json."""
    context = {
        "installation_id": k.INSTALLATION.hex(),
        "device_id": k.DEVICE,
        "topic": topics.cmd(k.DEVICE),
        "trust": k.signed_trust(k.base_trust()).hex(),
        "last_counter": next_counter(3, k.ISSUED - 1),
        "now": k.NOW,
    }
    out = Collection("cmd", context)
    counter, until = next_counter(3, k.ISSUED), k.NOW + 1

    def signed(body: bytes) -> bytes:
        return sign1_payload("cmd", body, ONLINE, k.CMD_AAD)

    arguments: dict[CommandVerb, tuple[int, ...] | None] = {
        CommandVerb.SELF_TEST: (0,),
        CommandVerb.PROBE_ARENA: (3,),
        CommandVerb.RESEND_TELEMETRY: (7, 1, 2**32 - 1),
    }
    for verb in CommandVerb:
        command = Command(k.DEVICE, counter, 3, verb, k.ISSUED, until, arguments.get(verb))
        out.add(f"verb {verb.label}", signed(command.encode()), "ok")
    payload = Command(k.DEVICE, counter, 3, CommandVerb.REPORT_NOW, k.ISSUED, until).encode()
    out.add("that never expires", signed(changed(payload, setting(7, 0))), "ok")
    out.add(
        "expired without a clock", signed(changed(payload, setting(7, k.NOW))), "ok", context={"now": None}
    )
    _add_sign1_faults(out, "cmd", payload, k.CMD_AAD)
    for name, key, value, code in (
        ("format 2", 0, 2, "schema"),
        ("another device's id", 1, "dev-8", "signature"),
        ("a counter of another trust version", 2, next_counter(4, k.ISSUED), "sequence"),
        ("the last counter again", 2, context["last_counter"], "sequence"),
        ("verb 0", 4, 0, "unknown_action"),
        ("a verb that version 1 lacks", 4, 8, "unknown_action"),
        ("a verb of text", 4, "reboot", "schema"),
        ("arguments that are a number", 5, 1, "schema"),
        ("its expiry reached", 7, k.NOW, "expired"),
        ("a key that format 1 lacks", 8, 0, "schema"),
    ):
        out.add(f"with {name}", signed(changed(payload, setting(key, value))), code)
    for key in (0, 1, 2, 3, 4, 6, 7):
        out.add(f"without key {key}", signed(changed(payload, without(key))), "schema")
    ahead = changed(payload, edit({2: next_counter(4, k.ISSUED), 3: 4}))
    out.add("for a trust version that is not held yet", signed(ahead), "trust")
    return out
