"""A slot as it is drawn: its two flash banks, which one runs, and what is being written into the other."""

from __future__ import annotations

from dataclasses import dataclass, field

from fleet.devices.models import DeviceSlot
from fleet.mqtt.codec.names import BankFlag
from ota.inventory import Name

CHUNK_BYTES = 4096


@dataclass(frozen=True)
class Bank:
    """One bank. letter: A or B. filled: percent of the download that is in it, None when nothing is being
    written.
    """

    letter: str
    is_running: bool
    title: str
    digest: str
    notes: list[str] = field(default_factory=list)
    filled: float | None = None
    x: str = "0.5%"
    text_x: str = "3%"
    fill_width: str = "0%"


@dataclass(frozen=True)
class Drawn:
    """A slot with its two banks, A left."""

    slot: DeviceSlot
    banks: list[Bank]
    target: str
    self_test: str

    @property
    def title(self) -> str:
        """What the drawing says, for those who do not see it."""
        return "; ".join(
            f"bank {bank.letter}: {bank.title}{', running' if bank.is_running else ''}" for bank in self.banks
        )


def draw(slot: DeviceSlot, names: dict[str, Name]) -> Drawn:
    """The drawing of a slot as it was last reported."""
    running = 1 if slot.run_bank == 1 else 0
    is_stopped = bool(slot.run_flags & BankFlag.STOPPED)
    banks = []
    for index in (0, 1):
        is_running = bool(slot.run) and index == running
        id16 = slot.run if is_running else slot.other if index != running or not slot.run else ""
        seq = slot.run_seq if is_running else slot.other_seq
        notes = [f"seq {seq}"] if id16 and seq is not None else []
        filled = None
        if is_running:
            notes.append("stopped" if is_stopped else "confirmed" if slot.state != "trial" else "on trial")
        elif slot.total and slot.have < slot.total and slot.state in ("downloading", "manifest_ok"):
            filled = 100.0 * slot.have / slot.total
            notes = [f"{slot.have} of {slot.total} chunks"]
        elif id16 and slot.other_flags & BankFlag.USABLE_FOR_REVERT:
            notes.append("ready to revert to")
        title = _title(slot.target if filled is not None else id16, names)
        banks.append(
            Bank(
                letter="AB"[index],
                is_running=is_running,
                title=title,
                digest=(slot.target if filled is not None else id16)[:16],
                notes=notes,
                filled=filled,
                x="0.25%" if index == 0 else "51%",
                text_x="3%" if index == 0 else "53.75%",
                fill_width=f"{48.75 * (filled or 0) / 100:.2f}%",
            )
        )
    n, ok, worst, median_us = [*slot.selftest, 0, 0, 0, 0][:4]
    test = f"{ok} of {n} golden vectors, at most {worst} LSB off, {median_us:,} µs" if n else "not run yet"
    target = _title(slot.target, names) if slot.target and slot.target != slot.run else ""
    return Drawn(slot, banks, target, test)


def _title(id16: str, names: dict[str, Name]) -> str:
    if not id16:
        return "empty"
    name = names.get(id16)
    return f"{name.model} {name.version}" if name else "unknown to the registry"
