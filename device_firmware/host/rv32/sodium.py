"""The real libsodium for rv32imc, compiled from Debian's source package when the proof runs.

Nothing of it is committed: apt fetches the source package from where this machine's own entries point, it is
compared with a pinned digest and unpacked below the build folder, and the files that verifying needs are
compiled. A package that lies there already is used as it is, if its digest fits.
"""

from __future__ import annotations

import fcntl
import hashlib
import re
import subprocess
import tarfile
from pathlib import Path

from device_firmware.host.build import BuildError
from device_firmware.host.rv32 import toolchain

VERSION = "1.0.18"
ARCHIVE = f"libsodium_{VERSION}.orig.tar.gz"
SHA256 = "d59323c6b712a1519a5daf710b68f5e7fde57040845ffec53850911f10a5d4f4"
ARCHIVE_BYTES = 1_619_527
SOURCES = (
    "crypto_auth/hmacsha256/auth_hmacsha256.c",
    "crypto_core/ed25519/ref10/ed25519_ref10.c",
    "crypto_hash/sha256/cp/hash_sha256_cp.c",
    "crypto_hash/sha512/cp/hash_sha512_cp.c",
    "crypto_sign/crypto_sign.c",
    "crypto_sign/ed25519/ref10/open.c",
    "crypto_sign/ed25519/ref10/sign.c",
    "crypto_verify/sodium/verify.c",
    "sodium/core.c",
    "sodium/utils.c",
)
_DEADLINE_S = 240


def folder() -> Path:
    """Where the archive, its sources and the objects lie."""
    return toolchain.RV32_BUILD_DIR / "libsodium"


def includes() -> list[str]:
    """Compiler options for libsodium's public headers."""
    return [f"-I{_source_dir() / 'include'}"]


def objects() -> list[Path]:
    """The compiled files, built unless they are there. Safe from several processes.

    Raises BuildError `no_source` when the archive cannot be had, `digest` for another archive than the pinned
    one, `compile_failed`.
    """
    folder().mkdir(parents=True, exist_ok=True)
    found = [folder() / "objects" / f"{Path(name).stem}.o" for name in SOURCES]
    wanted = " ".join((SHA256, *toolchain.COMPILE, *SOURCES))
    stamp = folder() / "stamp"
    with (folder() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp.exists() and stamp.read_text() == wanted and all(path.exists() for path in found):
            return found
        _unpack(_archive())
        _write_version_header()
        flags = [*includes(), f"-I{_source_dir() / 'include' / 'sodium'}"]
        flags += ["-DCONFIGURED=1", "-DSODIUM_STATIC=1", *toolchain.CALL_GRAPH]
        paths = [_source_dir() / name for name in SOURCES]
        toolchain.compile_objects(folder() / "objects", paths, flags, strict=False)
        stamp.write_text(wanted)
    return found


def _source_dir() -> Path:
    return folder() / f"libsodium-{VERSION}" / "src" / "libsodium"


def _archive() -> Path:
    path = folder() / ARCHIVE
    if not path.exists():
        _fetch()
    if not path.exists():
        raise BuildError("no_source", f"Debian's archive has no {ARCHIVE}: put one into {folder()}")
    data = path.read_bytes()
    if len(data) != ARCHIVE_BYTES or hashlib.sha256(data).hexdigest() != SHA256:
        path.unlink()
        raise BuildError("digest", f"{ARCHIVE} is not the file whose SHA-256 begins with {SHA256[:16]}")
    return path


def _unpack(archive: Path) -> None:
    """Only sources, only below the one folder that the archive has."""
    with tarfile.open(archive) as tar:
        for member in tar:
            path = Path(member.name)
            inside = path.parts[:1] == (f"libsodium-{VERSION}",) and ".." not in path.parts
            if member.isfile() and inside and "src" in path.parts and path.suffix in {".c", ".h", ".in"}:
                tar.extract(member, folder(), set_attrs=False, filter="data")


def _write_version_header() -> None:
    """What libsodium's own `configure` makes of version.h.in."""
    source = _source_dir() / "include" / "sodium" / "version.h.in"
    values = {
        "VERSION": VERSION,
        "SODIUM_LIBRARY_VERSION_MAJOR": "10",
        "SODIUM_LIBRARY_VERSION_MINOR": "3",
        "SODIUM_LIBRARY_MINIMAL_DEF": "",
    }
    made = re.sub(r"@(\w+)@", lambda match: values[match[1]], source.read_text())
    source.with_suffix("").write_text(made)


def _fetch() -> None:
    """Have apt download the source package, with lists of its own: the machine's stay as they are."""
    apt = folder() / "apt"
    (apt / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    (apt / "cache" / "archives" / "partial").mkdir(parents=True, exist_ok=True)
    sources = apt / "source.sources"
    sources.write_text(_source_entries())
    options = (
        *("-o", f"Dir::Etc::sourcelist={sources}", "-o", "Dir::Etc::sourceparts=-"),
        *("-o", f"Dir::State::lists={apt / 'lists'}", "-o", f"Dir::Cache={apt / 'cache'}"),
        *("-o", "APT::Sandbox::User=root", "-o", "Acquire::Languages=none"),
    )
    _apt("apt-get", "-q", *options, "update")
    known = _apt("apt-cache", *options, "showsrc", "--only-source", "libsodium")
    versions = re.findall(r"^Version: (\S+)$", known, re.MULTILINE)
    fitting = [version for version in versions if version.startswith(f"{VERSION}-")]
    if not fitting:
        raise BuildError("no_source", f"Debian's archive has libsodium {versions}, not {VERSION}")
    _apt("apt-get", "-q", *options, "source", "--download-only", "--tar-only", f"libsodium={fitting[0]}")


def _apt(*command: str) -> str:
    try:
        done = subprocess.run(
            command, cwd=folder(), capture_output=True, text=True, timeout=_DEADLINE_S, check=False
        )
    except FileNotFoundError as error:
        raise BuildError("no_source", f"there is no {command[0]} to fetch libsodium with") from error
    if done.returncode != 0:
        raise BuildError("no_source", f"{command[0]} failed: {_last(done.stderr)}")
    return done.stdout


def _source_entries() -> str:
    """Source entries for Debian's own archive, made of the binary entries that this machine has."""
    entries = []
    places = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    for place in places:
        text = place.read_text() if place.is_file() else ""
        if place.suffix == ".sources":
            blocks = re.split(r"\n\s*\n", text)
            entries += [
                re.sub(r"(?m)^Types:.*$", "Types: deb-src", block.strip())
                for block in blocks
                if re.search(r"(?m)^URIs:.*/debian/?\s*$", block)
            ]
        else:
            for line in re.findall(r"(?m)^deb(?:-src)?\s+(.*/debian/?\s.*)$", text):
                entries.append(_as_block(line))
    if not entries:
        raise BuildError("no_source", "no entry of this machine's apt sources is Debian's archive")
    return "\n\n".join(dict.fromkeys(entries)) + "\n"


def _as_block(line: str) -> str:
    """A one-line entry as a block: the file we write has one form only."""
    options, rest = "", line
    if match := re.match(r"\[(.*?)\]\s*(.*)", line):
        options, rest = match[1], match[2]
    uri, suite, *components = rest.split()
    block = f"Types: deb-src\nURIs: {uri}\nSuites: {suite}\nComponents: {' '.join(components)}"
    signed = re.search(r"signed-by=(\S+)", options)
    return block + (f"\nSigned-By: {signed[1]}" if signed else "")


def _last(text: str) -> str:
    """The last line, without addresses."""
    lines = [line for line in text.splitlines() if line.strip()]
    return re.sub(r"https?://\S+", "(address)", lines[-1]) if lines else "it said nothing"
