"""Build a mutant of the core and let the test that must notice it run.

Every object of the good core is compiled once; a mutant costs one object, a link and one short process. That
process is this module: `python -m tests.firmware.mutating EXTENSION module::function FOLDER` runs one test of
the suite against another build of the core, without pytest and Django around it.
"""

from __future__ import annotations

import importlib
import itertools
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from device_firmware.host import build
from tests.firmware import scenario
from tests.firmware.mutants import Mutant

C_DIR = Path(__file__).parent / "c"
FLAGS = (
    *build.STRICT,
    "-O1",
    "-fPIC",
    "-Wno-unused-parameter",
    "-Wno-unused-function",
    "-Wno-unused-variable",
)
KILLED = 1
"""Exit status of a process whose test noticed the fault."""


class Nursery:
    """A folder with the good core's objects, from which mutants are linked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.core = folder / "fleet_core"
        shutil.copytree(build.CORE_DIR, self.core)
        self.sources = build.core_sources(self.core)
        program = [C_DIR / f"{name}.c" for name in ("bench", "tears", "cuts", "groups")]
        objects = build.compile_objects(folder, [*self.sources, *program], FLAGS, core_dir=self.core)
        count = len(self.sources)
        self.objects, (*bench, cuts, groups) = objects[:count], objects[count:]
        self.programs = {"cuts": [*bench, cuts], "groups": [*bench, groups]}
        build.build_module()  # writes the wrapper
        wrapper = build.BUILD_DIR / "host" / f"{build.MODULE_NAME}.c"
        self.wrapper = str(folder / "wrapper.o")
        include = f"-I{sysconfig.get_paths()['include']}"
        flags = ["-O1", "-fPIC", include, *build.includes(self.core)]
        build.run_compiler([build.compiler(), *flags, "-c", str(wrapper), "-o", self.wrapper])
        self.plans = {
            "cuts": [str(scenario.cuts(folder / "cuts.scenario"))],
            "groups": [str(scenario.groups(folder / "groups.scenario"))],
        }

    def mutate(self, mutant: Mutant, folder: Path) -> list[str]:
        """The objects of a core with the fault. Raises AssertionError when its text is no longer there."""
        source = self.core / "src" / mutant.file
        text = source.read_text()
        found = text.count(mutant.old)
        assert found == 1, (
            f"{mutant.file} holds the text to change {found} times: the list of mutants is stale"
        )
        changed = folder / mutant.file
        changed.write_text(text.replace(mutant.old, mutant.new))
        made = build.compile_objects(folder, [changed], FLAGS, core_dir=self.core)
        replaced = str(self.folder / f"{changed.stem}.o")
        return [made[0] if path == replaced else path for path in self.objects]

    def run(self, objects: Sequence[str], killed_by: str, folder: Path) -> subprocess.CompletedProcess[str]:
        """Link these objects and run the test that shall notice."""
        cc = build.compiler()
        if killed_by in self.programs:
            program = folder / "program"
            build.run_compiler([cc, *objects, *self.programs[killed_by], "-lsodium", "-o", str(program)])
            command = [str(program), *self.plans[killed_by], str(folder / "flash.bin")]
            command += ["single", "16", "0", "1", "1"] if killed_by == "cuts" else []
        else:
            extension = folder / f"{build.MODULE_NAME}{sysconfig.get_config_var('EXT_SUFFIX')}"
            build.run_compiler([cc, "-shared", self.wrapper, *objects, "-lsodium", "-o", str(extension)])
            command = [sys.executable, "-m", __name__, str(extension), killed_by, str(folder)]
        root = str(Path(__file__).parent.parent.parent)
        environment = os.environ | {"PYTHONPATH": root}
        return subprocess.run(
            command, cwd=root, env=environment, capture_output=True, text=True, check=False, timeout=120
        )


def was_killed(done: subprocess.CompletedProcess[str]) -> bool:
    """The test failed, or the process died of the fault (a misuse of flash aborts). Not: there is no test."""
    return done.returncode == KILLED or done.returncode < 0


def cases(function: Any) -> Iterator[dict[str, Any]]:
    """Arguments of each case of a parametrized test; one empty set without parameters."""
    tables: list[list[dict[str, Any]]] = []
    for mark in getattr(function, "pytestmark", []):
        if mark.name != "parametrize":
            continue
        said = mark.args[0]
        names = [name.strip() for name in said.split(",")] if isinstance(said, str) else list(said)
        rows = []
        for value in mark.args[1]:
            values = value.values if hasattr(value, "values") and hasattr(value, "marks") else value
            several = values if len(names) > 1 or values is not value else (values,)
            rows.append(dict(zip(names, several, strict=True)))
        tables.append(rows)
    for combination in itertools.product(*tables):
        yield {name: value for row in combination for name, value in row.items()}


def find_test(node: str) -> Any:
    """The test function `module::function`."""
    module_name, function_name = node.split("::")
    return getattr(importlib.import_module(f"tests.firmware.{module_name}"), function_name)


def run_test(function: Any, folder: Path) -> None:
    """Run a test with all its cases; fixtures are `rig` and `tmp_path`."""
    wanted = function.__code__.co_varnames[: function.__code__.co_argcount]
    for number, arguments in enumerate(cases(function)):
        place = folder / f"case-{number}"
        place.mkdir()
        if "tmp_path" in wanted:
            arguments["tmp_path"] = place
        if "rig" in wanted:
            from tests.firmware.rig import Rig

            rig = Rig(place)
            rig.start()
            assert rig.give_trust() == 0
            arguments["rig"] = rig
        function(**arguments)
        shutil.rmtree(place)


def main(extension: str, node: str, folder: str) -> int:
    """0 the test passed, KILLED it failed, 3 there is no such test."""
    build.build_module = lambda *, force=False: Path(extension)
    try:
        function = find_test(node)
    except (ImportError, AttributeError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 3
    try:
        run_test(function, Path(folder))
    except (Exception, pytest.fail.Exception) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return KILLED
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
