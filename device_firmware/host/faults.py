"""Faults that a test or the demo asks a virtual device to suffer, once each."""

import dataclasses
import json
from typing import Any

KINDS = ("cut", "flip", "hang", "crash")


@dataclasses.dataclass(frozen=True)
class Fault:
    """cut: lose power at the `ops`-th flash operation after a download began, leaving `mode` (0 nothing, 1
    torn, 2 done).
    flip: flip one bit of chunk `chunk` on its way in. hang: stop answering. crash: die as a panic does.
    """

    kind: str
    ops: int = 1
    mode: int = 1
    chunk: int = 0

    @classmethod
    def parse(cls, raw: dict[str, Any]) -> "Fault":
        """Typed fault of a JSON object. Raises ValueError for an unknown kind or a number out of range."""
        if raw.get("kind") not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}")
        numbers = {key: raw[key] for key in ("ops", "mode", "chunk") if key in raw}
        if any(type(value) is not int for value in numbers.values()):
            raise ValueError("ops, mode and chunk are whole numbers")
        fault = cls(str(raw["kind"]), **numbers)
        if not (1 <= fault.ops < 2**31 and fault.mode in (0, 1, 2) and 0 <= fault.chunk < 2**31):
            raise ValueError("ops >= 1, mode 0..2, chunk >= 0")
        return fault

    def packet(self) -> bytes:
        """The fault as one packet for the device's control socket."""
        return json.dumps(dataclasses.asdict(self)).encode()
