"""Build the fuzz program with clang's libFuzzer, ASan and UBSan, and run a target of it."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from device_firmware.host import build
from tests.firmware.fuzz.seeds import corpus, seeds, write_scenario

C_DIR = Path(__file__).parent / "c"
BENCH_DIR = Path(__file__).parent.parent / "c"
SOURCES = (*sorted(C_DIR.glob("*.c")), BENCH_DIR / "bench.c")
WARNINGS = ("-std=c11", "-Wall", "-Wextra", "-Wno-unknown-warning-option", "-Werror")
SANITIZE = ("-fsanitize=fuzzer-no-link,address,undefined", "-fno-sanitize-recover=all")
RUNTIME = "libclang_rt.fuzzer-x86_64.a"
MAX_BYTES = {"message": 16_384, "signed": 8_192, "leaves": 12_288, "boot": 4_096}
NEEDS = "apt-get install clang libclang-rt-dev (Debian 12: clang-14 libclang-rt-14-dev)"


@dataclass(frozen=True)
class Run:
    """What one run of a target did. coverage: edges reached; kept: inputs of its corpus."""

    target: str
    inputs: int
    coverage: int
    kept: int


def find_clang() -> str | None:
    """Path of a clang that can link libFuzzer, None when there is none."""
    for name in ("clang", *(f"clang-{version}" for version in range(21, 12, -1))):
        path = shutil.which(name)
        if not path:
            continue
        said = subprocess.run(
            [path, f"-print-file-name={RUNTIME}"], capture_output=True, text=True, check=False
        )
        if said.returncode == 0 and Path(said.stdout.strip()).is_absolute():
            return path
    return None


class Fuzzer:
    """The built program in a folder of its own."""

    def __init__(self, folder: Path, clang: str) -> None:
        self.folder = folder
        self.program = folder / "fuzz"
        self.scenario = write_scenario(folder / "scenario")
        flags = [*WARNINGS, *SANITIZE, "-O1", "-g", *build.includes(), f"-I{BENCH_DIR}", f"-I{C_DIR}"]
        sources = [*build.core_sources(), *SOURCES]
        objects = [str(folder / f"{source.parent.name}-{source.stem}.o") for source in sources]

        def one(pair: tuple[Path, str]) -> None:
            build.run_compiler([clang, *flags, "-c", str(pair[0]), "-o", pair[1]])

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(one, zip(sources, objects, strict=True)))
        link = ["-fsanitize=fuzzer,address,undefined", *objects, "-lsodium", "-o", str(self.program)]
        build.run_compiler([clang, *link])

    def start_inputs(self, target: str) -> Path:
        """A folder with the seeds and the corpus of a target, a file each."""
        folder = self.folder / f"inputs-{target}"
        folder.mkdir(exist_ok=True)
        for data in (*seeds(target), *corpus(target)):
            (folder / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
        return folder

    def run(self, target: str, *options: str, folders: Sequence[Path], limit_s: float) -> Run:
        """Run libFuzzer. Raises AssertionError with the sanitizer's report and the input in hex."""
        crashes = self.folder / f"crash-{target}-"
        environment = os.environ | {
            "FUZZ_TARGET": target,
            "FUZZ_SCENARIO": str(self.scenario),
            "FUZZ_FLASH": str(self.folder / f"flash-{target}.bin"),
            "ASAN_OPTIONS": "abort_on_error=0:detect_leaks=1",
            "UBSAN_OPTIONS": "print_stacktrace=1",
        }
        fixed = [f"-artifact_prefix={crashes}", "-timeout=20", "-rss_limit_mb=1024", "-print_final_stats=1"]
        fixed.append(f"-max_len={MAX_BYTES.get(target, 2_304)}")
        command = [str(self.program), *fixed, *options, *map(str, folders)]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            env=environment,
            timeout=limit_s,
        )
        if done.returncode != 0:
            found = list(self.folder.glob(f"crash-{target}-*"))
            raw = "; ".join(path.read_bytes().hex() for path in found)
            raise AssertionError(f"{target}: {done.stderr[-6000:]}\ninput: {raw}")
        inputs = re.search(r"stat::number_of_executed_units:\s*(\d+)", done.stderr)
        states = re.findall(r"cov: (\d+) ft: \d+ corp: (\d+)", done.stderr)
        assert inputs, done.stderr[-2000:]
        assert states, done.stderr[-2000:]
        return Run(target, int(inputs[1]), int(states[-1][0]), int(states[-1][1]))

    def search(self, target: str, seconds: int, *, seed: int = 0) -> Run:
        """Run every seed and corpus input, then look for new ones; what is found stays in the folder."""
        options = [f"-max_total_time={seconds}", f"-seed={seed}"]
        return self.run(target, *options, folders=[self.start_inputs(target)], limit_s=seconds + 200)

    def minimize(self, target: str) -> list[bytes]:
        """The fewest of all inputs so far that reach the same code."""
        least = self.folder / f"least-{target}"
        least.mkdir(exist_ok=True)
        folder = self.start_inputs(target)
        self.run_merge(target, least, folder)
        return sorted((path.read_bytes() for path in least.iterdir()), key=lambda data: (len(data), data))

    def run_merge(self, target: str, least: Path, folder: Path) -> None:
        """libFuzzer's merge, which prints other statistics than a run."""
        environment = os.environ | {
            "FUZZ_TARGET": target,
            "FUZZ_SCENARIO": str(self.scenario),
            "FUZZ_FLASH": str(self.folder / f"flash-{target}.bin"),
        }
        command = [str(self.program), "-merge=1", f"-max_len={MAX_BYTES.get(target, 2_304)}", str(least)]
        done = subprocess.run(
            [*command, str(folder)],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            env=environment,
        )
        assert done.returncode == 0, done.stderr[-4000:]
