"""Who is control and who is in which wave: a pure function of the salt, the frozen set and the plan.

Anyone can recompute it. Within each stratum (device class x has-history) devices are sorted by a salted hash;
the first ranks are control, the next wave 1, and so on, so control and every wave are random samples of every
stratum.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ota.choices import Arm
from ota.plan import Plan, PlanError


@dataclass(frozen=True, slots=True)
class Candidate:
    """An eligible device. stratum: `<class>/<history or new>`."""

    device_id: str
    stratum: str


@dataclass(frozen=True, slots=True)
class Assigned:
    """One frozen row. wave: the wave that offers to it, for control the last one. h: 16 hex digits."""

    device_id: str
    arm: Arm
    wave: int
    stratum: str
    h: str
    rank: int


@dataclass(frozen=True)
class Sizes:
    """Devices per part of the plan.

    waves: newly taken in, control among the last. pairs: per wave, 0 if it is not gated. class_pairs: per
    wave, the same by device class.
    """

    control: int
    waves: tuple[int, ...]
    pairs: tuple[int, ...]
    class_pairs: tuple[dict[str, int], ...] = ()


def device_hash(salt: bytes, device_id: str) -> str:
    """First 8 bytes of SHA-256(salt ‖ 0x00 ‖ device id) as 16 hex digits: the device's place in the draw."""
    return hashlib.sha256(salt + b"\x00" + device_id.encode()).digest()[:8].hex()


def assign(candidates: Sequence[Candidate], plan: Plan, salt: bytes) -> list[Assigned]:
    """Place every candidate, in the order of (wave, stratum, rank) with control last.

    Raises PlanError `empty_target` without a candidate, `validation` when control leaves no device for a
    wave.
    """
    strata: dict[str, list[tuple[str, str]]] = defaultdict(list)
    rows: list[Assigned] = []
    named, places = plan.named, {name: n for wave in plan.waves for n, name in enumerate(wave.named)}
    taken: Counter[int] = Counter()
    for candidate in candidates:
        h = device_hash(salt, candidate.device_id)
        if wave := named.get(candidate.device_id):
            taken[wave] += 1
            place = places[candidate.device_id]
            rows.append(Assigned(candidate.device_id, Arm.WAVE, wave, candidate.stratum, h, place))
        else:
            strata[candidate.stratum].append((h, candidate.device_id))
    for devices in strata.values():
        devices.sort()
    shares = _shares({name: len(devices) for name, devices in strata.items()}, plan, taken)
    last = len(plan.waves)
    for name in sorted(strata):
        at = 0
        for n, share in enumerate(shares):  # 0 is control
            arm, offered_in = (Arm.CONTROL, last) if n == 0 else (Arm.WAVE, n)
            for h, device_id in strata[name][at : at + share[name]]:
                rows.append(Assigned(device_id, arm, offered_in, name, h, at))
                at += 1
    return sorted(rows, key=lambda row: (row.wave, row.arm == Arm.CONTROL, row.stratum, row.rank))


def sizes(strata: Mapping[str, int], plan: Plan, named: Mapping[int, int] | None = None) -> Sizes:
    """How many devices each part of the plan gets, without drawing.

    strata: eligible devices per stratum without the named ones, which are counted by wave in `named`.
    Raises what `assign` raises.
    """
    named = named or {}
    shares = _shares(strata, plan, named)
    control, waves = shares[0], shares[1:]
    by_class = [
        _class_pairs(control, wave) if is_gated(plan, n) else {} for n, wave in enumerate(waves, start=1)
    ]
    pairs = [sum(parts.values()) for parts in by_class]
    counts = [sum(wave.values()) + named.get(n, 0) for n, wave in enumerate(waves, start=1)]
    counts[-1] += sum(control.values())
    return Sizes(sum(control.values()), tuple(counts), tuple(pairs), tuple(by_class))


def _class_pairs(control: Mapping[str, int], wave: Mapping[str, int]) -> dict[str, int]:
    pairs: dict[str, int] = {}
    for stratum, count in wave.items():
        name = stratum.rpartition("/")[0]
        pairs[name] = pairs.get(name, 0) + min(control[stratum], count)
    return pairs


def is_gated(plan: Plan, wave: int) -> bool:
    """True when wave `wave` (1, 2, ...) is compared with control, if there are metrics: each but the last and
    those of named devices, which were not drawn.
    """
    return plan.is_gated and wave < len(plan.waves) and not plan.waves[wave - 1].named


def pair_up(wave: Mapping[str, Sequence[str]], control: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    """Pairs (wave device, control device): in each stratum the j-th with the j-th, up to the smaller number.

    wave, control: stratum -> device ids in the order of their rank.
    """
    return [
        pair
        for stratum in sorted(wave)
        for pair in zip(wave[stratum], control.get(stratum, ()), strict=False)
    ]


def largest_remainder(total: int, weights: Mapping[str, int]) -> dict[str, int]:
    """Split `total` (<= sum of weights) in proportion to `weights`, never above a weight; ties by name."""
    whole = sum(weights.values())
    if not whole:
        return dict.fromkeys(weights, 0)
    parts = {name: total * weight // whole for name, weight in weights.items()}
    by_remainder = sorted(weights, key=lambda name: (-(total * weights[name] % whole), name))
    for name in by_remainder[: total - sum(parts.values())]:
        parts[name] += 1
    return parts


def _shares(strata: Mapping[str, int], plan: Plan, named: Mapping[int, int]) -> list[dict[str, int]]:
    """Drawn devices of each stratum in control (index 0) and in waves 1..n; the last one without control.

    named: devices by the wave that names them, outside the strata; sizes count them in.
    """
    drawn = sum(strata.values())
    total = drawn + sum(named.values())
    if not total:
        raise PlanError("empty_target", "target", "no device is eligible")
    control = plan.control.of(total) if len(plan.waves) > 1 else 0
    if control and control >= drawn:
        raise PlanError(
            "validation", "control", f"control takes all {drawn} devices: none is left for a wave"
        )
    shares = [largest_remainder(control, strata)]
    left = {name: count - shares[0][name] for name, count in strata.items()}
    taken = 0
    for n, wave in enumerate(plan.waves[:-1], start=1):
        wanted = 0 if wave.named else max(0, min(wave.of(total), total - control) - taken)
        share = largest_remainder(min(wanted, sum(left.values())), left)
        left = {name: count - share[name] for name, count in left.items()}
        taken += sum(share.values()) + named.get(n, 0)
        shares.append(share)
    shares.append(left)
    return shares
