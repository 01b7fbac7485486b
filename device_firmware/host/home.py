"""A virtual device's folder: identity, flash file, boot counter, and whom it wears as a sensor."""

import dataclasses
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Home:
    """The folder of one device; `path` need not exist yet."""

    path: Path

    @property
    def identity_file(self) -> Path:
        """identity.json"""
        return self.path / "identity.json"

    @property
    def flash_file(self) -> Path:
        """The NOR flash."""
        return self.path / "flash.bin"

    def make(self) -> None:
        """Create the folder, closed to others: it holds the device's keys."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def next_boot(self) -> int:
        """Count this boot beside the MAC key: replaced whole, so a cut leaves the old or the new number.

        Not synced to disk: what must survive is the end of a process, and eighty syncs at once take seconds.
        """
        boot = self._number("boot", 0) + 1
        self._keep("boot", boot)
        return boot

    def seat(self, proposed: int) -> int:
        """The number that chooses recordings and jitter: given at the first start, the same ever after.

        Accuracy of a device can be compared over time only while it wears the same person.
        """
        known = self._number("seat", -1)
        if known < 0:
            self._keep("seat", proposed)
        return proposed if known < 0 else known

    def _number(self, name: str, otherwise: int) -> int:
        path = self.path / name
        return int(path.read_text()) if path.exists() else otherwise

    def _keep(self, name: str, value: int) -> None:
        part = self.path / f"{name}.part"
        part.write_text(str(value))
        part.replace(self.path / name)
