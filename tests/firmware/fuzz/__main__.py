"""The long form: `python -m tests.firmware.fuzz [--seconds 600] [--target NAME ...] [--keep]`.

Each target is searched for that long, two at a time. `--keep` writes the fewest inputs that reach the same
code to `corpus/`, for the replay of every later run. A crash ends the run with its input in hex.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.firmware.fuzz.fuzzing import NEEDS, Fuzzer, find_clang
from tests.firmware.fuzz.seeds import CORPUS, TARGETS, seeds

CORPUS_MAX_BYTES = 60_000
"""Of one committed corpus file; the shortest inputs win."""


def keep(fuzzer: Fuzzer, target: str) -> int:
    """Write a target's corpus file without what the seeds are anyway. Returns how many inputs it has."""
    known, total, kept = set(seeds(target)), 0, []
    for data in fuzzer.minimize(target):
        total += 2 * len(data) + 5
        if data not in known and total < CORPUS_MAX_BYTES:
            kept.append(data.hex())
    CORPUS.mkdir(exist_ok=True)
    (CORPUS / f"{target}.json").write_text(json.dumps(kept, indent=0) + "\n")
    return len(kept)


def main() -> int:
    """0 nothing found, 1 a crash, 2 no fuzzer here."""
    parser = argparse.ArgumentParser(description="Fuzz the firmware core.")
    parser.add_argument("--seconds", type=int, default=600, help="per target")
    parser.add_argument("--target", action="append", choices=TARGETS, help="may be given again; default: all")
    parser.add_argument("--keep", action="store_true", help="write the corpora")
    arguments = parser.parse_args()
    clang = find_clang()
    if clang is None:
        print(f"no clang with libFuzzer: {NEEDS}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        fuzzer = Fuzzer(Path(folder), clang)

        def one(target: str) -> str:
            seed = int.from_bytes(os.urandom(3), "big")
            try:
                found = fuzzer.search(target, arguments.seconds, seed=seed)
            except AssertionError as error:
                return f"{target}: FAILED (seed {seed})\n{error}"
            kept = f", {keep(fuzzer, target)} written" if arguments.keep else ""
            counts = f"{found.inputs:>12,} inputs {found.coverage:>6,} edges {found.kept:>6,} kept"
            return f"{target:9} {counts}{kept}"

        failed = False
        with ThreadPoolExecutor(2) as pool:
            for line in pool.map(one, arguments.target or TARGETS):
                failed |= "FAILED" in line
                print(line, flush=True)
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
