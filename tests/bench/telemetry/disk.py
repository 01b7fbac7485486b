"""A small file system below PostgreSQL, which can be filled to its last byte and freed again.

It is mounted in a mount namespace of this process and its children alone: whatever becomes of them, nothing
stays mounted. Only root can do that, and not in every container.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

_OWN: Final = "FLEET_BENCH_MOUNTS"
_BLOCK: Final = bytes(65_536)
NOT_ALLOWED: Final = 77
"""Exit status of a program that may not mount; the test of it is then skipped, and says so."""


def enter_namespace(module: str) -> None:
    """Start this program anew where it may mount, unless it is there already; ends it with NOT_ALLOWED when
    this machine does not allow that.
    """
    if os.environ.get(_OWN):
        return
    prefix = ("unshare", "--mount", "--propagation", "private", "--")
    probe = (*prefix, "mount", "-t", "tmpfs", "none", "/mnt")
    try:
        done = subprocess.run(probe, capture_output=True, text=True, timeout=20, check=False)
    except OSError as problem:
        print(f"skipped: {problem}", file=sys.stderr)
        raise SystemExit(NOT_ALLOWED) from problem
    if done.returncode != 0:
        print(f"skipped: a file system cannot be mounted here: {done.stderr.strip()}", file=sys.stderr)
        raise SystemExit(NOT_ALLOWED)
    os.environ[_OWN] = "1"
    os.execvp(prefix[0], [*prefix, sys.executable, "-m", module, *sys.argv[1:]])


class SmallDisk:
    """A file system in memory of so many MiB, mounted at `folder` while it is entered."""

    def __init__(self, folder: Path, *, mib: int) -> None:
        folder.mkdir(parents=True, mode=0o700)
        self._folder = folder
        options = f"size={mib}m,mode=0700"
        subprocess.run(("mount", "-t", "tmpfs", "-o", options, "none", folder), check=True, timeout=20)
        self._ballast = folder / "ballast"

    def __enter__(self) -> SmallDisk:
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(("umount", "--lazy", self._folder), check=True, timeout=20)

    def fill(self) -> int:
        """Take what is left, to the last block; returns how many MiB the ballast has now. Call it again for
        what others gave back since.
        """
        with self._ballast.open("ab", buffering=0) as file:
            while True:
                try:
                    file.write(_BLOCK)
                except OSError as problem:
                    if problem.errno != errno.ENOSPC:
                        raise
                    return file.tell() >> 20

    def free(self) -> None:
        """Give everything back."""
        self._ballast.unlink(missing_ok=True)
