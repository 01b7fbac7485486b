"""What is missing is named, what is not the pinned file is refused, what fails says so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from device_firmware.host.build import BuildError
from device_firmware.host.rv32 import bench, sodium, toolchain
from device_firmware.host.rv32.bench import Script, Verb

pytestmark = pytest.mark.xdist_group("rv32")


def test_a_missing_tool_is_named_by_its_debian_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(toolchain.PACKAGES, "no-such-tool-of-rv32", "some-package")
    with pytest.raises(toolchain.Missing, match="some-package"):
        toolchain.require()


def test_another_libsodium_than_the_pinned_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toolchain, "RV32_BUILD_DIR", tmp_path)
    archive = sodium.folder() / sodium.ARCHIVE
    archive.parent.mkdir(parents=True)
    archive.write_bytes(bytes(sodium.ARCHIVE_BYTES))
    with pytest.raises(BuildError, match="is not the file") as caught:
        sodium.objects()
    assert caught.value.code == "digest"
    assert not archive.exists(), "it would be refused for ever"


def test_every_object_of_the_core_is_rv32imc_and_nothing_wider(chip: None) -> None:
    found = sorted((bench.build().parent / "core").glob("*.o"))
    assert len(found) == len(toolchain.core_sources())
    for path in found:
        header = toolchain.tool("readelf", "-A", str(path))
        arch = re.search(r'Tag_RISCV_arch: "([a-z0-9_]+)"', header)
        assert arch is not None
        # zmmul is the part of m that multiplies; the assembler names it besides
        assert re.fullmatch(r"rv32i\dp\d_m\dp\d_c\dp\d(_zmmul\dp\d)?", arch[1]), f"{path.name}: {arch[1]}"


def test_a_bench_that_breaks_a_rule_of_the_flash_ends_with_its_words(chip: None, tmp_path: Path) -> None:
    script = Script()
    script.add(Verb.RESTORE, b"\x05")  # there is no such snapshot
    with pytest.raises(BuildError, match="no such snapshot"):
        bench.run(script, tmp_path)


def test_the_core_neither_allocates_nor_prints_and_only_sensor_values_are_floating_point(chip: None) -> None:
    """No object of it names a function for that; the pipeline's stages have the sensor's numbers in hand."""
    floating = set()
    for path in sorted((bench.build().parent / "core").glob("*.o")):
        wanted = {line.split()[-1] for line in toolchain.tool("nm", "-u", str(path)).splitlines()}
        assert not wanted & {"malloc", "calloc", "realloc", "free", "printf", "puts", "abort"}, path.name
        if any(re.fullmatch(r"__\w+[sd]f(\w*|[23])", name) for name in wanted):
            floating.add(path.stem)
    assert floating == {"anomaly", "feature", "pipe", "ring"}
