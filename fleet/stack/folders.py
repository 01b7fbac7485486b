"""What `manage.py doctor` says of folders that telemetry writes to: exports, and the cold tier."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from fleet.stack.health import DISK_FAIL_BYTES, DISK_WARN_BYTES, FAIL, OK, WARN, Finding

IN_MEMORY = ("tmpfs", "ramfs")
COLD_PACKAGES = ("pyarrow", "duckdb")
_MOUNTS = Path("/proc/self/mountinfo")


def check_exports(folder: Path, served: Iterable[Path]) -> Finding:
    """Large exports can be written. served: folders whose files anybody may fetch."""
    return _folder("exports", "FLEET_EXPORT_DIR", folder, served, in_memory=WARN)


def check_cold(folder: str, served: Iterable[Path]) -> Iterator[Finding]:
    """Raw days can become Parquet, and be read, where a cold tier is set up; "" for none.

    A partition is dropped because its file is there, so memory is no place for one.
    """
    if not folder:
        yield Finding("cold tier", OK, "off: raw days past retention are dropped (FLEET_COLD_DIR)")
        return
    yield _folder("cold tier", "FLEET_COLD_DIR", Path(folder), served, in_memory=FAIL)
    missing = [name for name in COLD_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        text = f"FLEET_COLD_DIR is set and {', '.join(missing)} not installed: nothing is exported or dropped"
        yield Finding("cold packages", FAIL, text, "pip install 'tinyfleet[cold]'")


def _folder(name: str, variable: str, folder: Path, served: Iterable[Path], *, in_memory: str) -> Finding:
    """Looking changes nothing: the file that proves that writing works has no name."""
    place = folder.resolve()
    for one in served:
        if place.is_relative_to(one.resolve()):
            text = f"{folder} lies in {one}, whose files are served to anybody"
            return Finding(name, FAIL, text, f"set {variable} to a folder outside")
    existing = next(path for path in (place, *place.parents) if path.exists())
    if not existing.is_dir():
        return Finding(name, FAIL, f"{existing} is no folder", f"set {variable} to a folder")
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"doctor")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        fix = f"let the user of web and workers write there, or set {variable}"
        return Finding(name, FAIL, f"{existing} cannot be written: {error.strerror}", fix)
    kind = filesystem(existing)
    if kind in IN_MEMORY:
        fix = f"set {variable} to a folder on a disk"
        return Finding(name, in_memory, f"{existing} is in memory ({kind}) and gone at a restart", fix)
    free = shutil.disk_usage(existing).free
    text = f"{folder}, {free / 1024**3:.1f} GiB free"
    if free < DISK_WARN_BYTES:
        return Finding(name, FAIL if free < DISK_FAIL_BYTES else WARN, text, "make room, or move the folder")
    if existing != place and in_memory == FAIL:
        fix = f"mount it, if it is to be a disk of its own; else it is made when it is needed ({variable})"
        return Finding(name, WARN, f"{folder} is not there yet", fix)
    return Finding(name, OK, text)


def filesystem(path: Path) -> str:
    """Type of the file system that holds an existing path; "" where that is not known.

    Source: proc_pid_mountinfo(5): the fifth field is the mount point, the type stands behind a lone hyphen.
    The last line wins, because a later mount covers an earlier one.
    """
    best, kind = -1, ""
    try:
        lines = _MOUNTS.read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        fields, _, rest = line.partition(" - ")
        point = Path(fields.split(" ")[4].encode().decode("unicode_escape"))
        if path.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), rest.split(" ")[0]
    return kind
