"""Where a model lies in the memory of a device class: its flash slot and its arena, as bars and numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fleet.console import charts
from fleet.devices.models import DeviceClass

CHUNK_BYTES = 4096


@dataclass(frozen=True)
class Part:
    """A stretch of memory. words: what it is. size: bytes. css: class of its colour."""

    words: str
    size: int
    css: str


@dataclass(frozen=True)
class MemoryMap:
    """One class. slot, arena: what lies in them, from the low end; what is left of `of` bytes is free.

    arena is empty when no figure is known.
    """

    name: str
    is_simulated: bool
    slot: list[Part]
    slot_of: int
    arena: list[Part]
    arena_of: int

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The two bars, each with its parts, segments, what it is of, what is used and what is free."""
        bars = (("Flash slot", self.slot, self.slot_of), ("Arena", self.arena, self.arena_of))
        return [
            {
                "title": title,
                "parts": parts,
                "of": of,
                "used": (used := sum(part.size for part in parts)),
                "free": of - used,
                "is_over": used > of,
                "segments": charts.bar([(part.words, part.size, part.css, "") for part in parts], of),
            }
            for title, parts, of in bars
            if parts and of
        ]


def memory_maps(
    size: int,
    blob_size: int,
    probe: Mapping[str, Any],
    arenas: Mapping[str, int | None],
    classes: Iterable[DeviceClass],
    *,
    slot: int = 0,
) -> list[MemoryMap]:
    """The maps of some classes.

    size, blob_size: bytes of the model and of the golden blob behind it; a blob begins at a chunk of its own.
    probe: as stored. arenas: class to the bytes that preflight found, with its reserve; a class that is
    absent or None has no arena figure.
    """
    flash = [Part("model", size, "c1")]
    if blob_size:
        gap = -size % CHUNK_BYTES
        flash += [Part("rest of the last chunk", gap, "c6")] if gap else []
        flash.append(Part("golden vectors", blob_size, "c2"))
    found = []
    for one in classes:
        needed, head = arenas.get(one.name), probe.get("arena_head_bytes") or 0
        arena = []
        if needed:
            arena = [
                Part("activations", min(head, needed), "c3"),
                Part(
                    "structures" if one.is_simulated else "structures, kernel scratch, reserve",
                    max(0, needed - head),
                    "c4",
                ),
            ]
        sizes = one.slot_bytes
        found.append(
            MemoryMap(
                name=one.name,
                is_simulated=one.is_simulated,
                slot=flash,
                slot_of=sizes[slot] if slot < len(sizes) else 0,
                arena=arena,
                arena_of=one.arena_bytes,
            )
        )
    return found
