"""The entry scripts: what they accept, and what the pins they install may contain."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from fleet.stack.paths import PROJECT_ROOT

DEPLOY = PROJECT_ROOT / "deploy"
PINS = [DEPLOY / "requirements.txt", DEPLOY / "requirements-dev.txt"]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def pinned(path: Path) -> dict[str, str]:
    """Name to version of every pin."""
    return dict(re.findall(r"^([a-z0-9.-]+)==([^ ;]+)", path.read_text(), flags=re.MULTILINE))


@pytest.mark.parametrize("script", ["demo", "test"])
def test_help_is_printed_without_installing_anything(script: str, tmp_path: Path) -> None:
    done = subprocess.run(
        (str(DEPLOY / script), "--help"), capture_output=True, text=True, cwd=tmp_path, timeout=60, check=True
    )
    assert done.stdout.startswith(f"usage: deploy/{script}")
    assert "Setting up" not in done.stdout


@pytest.mark.parametrize("arguments", [("--bogus",), ("--devices",), ("--once", "--summary")])
def test_demo_refuses_unusable_arguments_before_it_installs(arguments: tuple[str, ...]) -> None:
    done = run(str(DEPLOY / "demo"), *arguments)
    assert done.returncode == 2
    assert f"deploy/demo: {'unknown argument' if arguments == ('--bogus',) else arguments[-1]}" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("script", ["setup.sh", "demo", "test", "compile-pins", "../.ci/run"])
def test_scripts_are_well_formed(script: str) -> None:
    done = run("bash", "-n", str(DEPLOY / script))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("pins", PINS, ids=lambda path: path.name)
def test_pins_are_hashed_and_name_no_address(pins: Path) -> None:
    text = pins.read_text()
    assert re.search(r"://|--index-url|--extra-index-url|--find-links|file:", text) is None
    blocks = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert len(blocks) > 50
    assert [block.split("==")[0] for block in blocks if "--hash=sha256:" not in block] == []


def test_the_development_pins_contain_the_others_unchanged() -> None:
    product, development = (pinned(path) for path in PINS)
    assert {name: development.get(name) for name in product} == product


def test_every_declared_dependency_is_pinned() -> None:
    project = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["project"]
    groups = {
        PINS[0]: [*project["dependencies"], *project["optional-dependencies"]["demo"]],
        PINS[1]: project["optional-dependencies"]["dev"],
    }
    for path, wanted in groups.items():
        names = {re.split(r"[\[<>=; ]", line, maxsplit=1)[0].lower() for line in wanted}
        assert names - set(pinned(path)) == set(), f"run deploy/compile-pins: {path.name} lacks them"
