"""The pipeline's C under AddressSanitizer and UBSan, fed with whatever a seed gives."""

from __future__ import annotations

import subprocess
from pathlib import Path

from device_firmware.host import build

STAGES = ("anomaly", "bytes", "cbor", "decide", "feature", "pipe", "ring", "sketch", "sketch_write")


def test_no_model_no_sample_and_no_output_makes_the_pipeline_misbehave(tmp_path: Path) -> None:
    sources = [build.CORE_DIR / "src" / f"{name}.c" for name in STAGES]
    sources.append(Path(__file__).parent / "c" / "stages.c")
    sanitize = (*build.SANITIZE, "-fsanitize=float-cast-overflow")
    objects = build.compile_objects(tmp_path, sources, [*build.STRICT, "-O1", "-g", *sanitize])
    program = tmp_path / "stages"
    build.run_compiler([build.compiler(), *sanitize, *objects, "-o", str(program)])
    for seed in (1, 2026):
        done = subprocess.run(
            [program, str(seed), "400"], capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr[-3000:]
        _, pipes, _, windows = done.stdout.split()
        assert int(pipes) > 40, done.stdout
        assert int(windows) > 1000, done.stdout
