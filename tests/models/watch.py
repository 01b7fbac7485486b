"""Where tests find the real recordings: prepared once per run folder, as `deploy/test` does."""

from __future__ import annotations

import functools
import os
from pathlib import Path

from device_firmware.host import recordings

ROOT = Path(__file__).resolve().parents[2]


@functools.cache
def watch_dir() -> Path:
    """Folder of the prepared recordings, below FLEET_RUN_DIR (`.run` unless set); prepares them if needed."""
    run_dir = Path(os.environ.get("FLEET_RUN_DIR", ROOT / ".run"))
    return recordings.prepare(run_dir / "data" / "watch")
