"""When Mosquitto writes its store to disk: the ways that the benchmarks compare."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from fleet.stack.paths import RunDir

SAVINGS: Final[Mapping[str, tuple[str, ...] | None]] = {
    "stack": (),
    "change": ("autosave_interval 1", "autosave_on_changes true"),
    "1 s": ("autosave_interval 1", "autosave_on_changes false"),
    "5 s": ("autosave_interval 5", "autosave_on_changes false"),
    "30 s": ("autosave_interval 30", "autosave_on_changes false"),
    "never": None,
}
"""Name -> lines of the configuration. "stack": as the private stack has it; "never": in memory only."""


def configure(run: RunDir, saving: str, *, more: tuple[str, ...] = ()) -> None:
    """Change the configuration that `mosquitto.spec` wrote; call it before the broker starts.

    saving: a key of SAVINGS. more: further lines.
    """
    config = run.mosquitto / "mosquitto.conf"
    lines, given = config.read_text().splitlines(), SAVINGS[saving]
    if saving != "stack":
        gone = ("autosave", "persistence ", "persistence_location") if given is None else ("autosave",)
        at = next(index for index, line in enumerate(lines) if line.startswith("autosave"))
        lines[at:at] = given or ()
        lines = [line for line in lines if not line.startswith(gone) or line in (given or ())]
    config.write_text("\n".join([*lines, *more, ""]))
