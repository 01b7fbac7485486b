"""The completion script knows every command, because it is made from them."""

import subprocess

import pytest

from fleet.cli import completion
from fleet.cli.main import parser


def completed(*words: str) -> set[str]:
    """What bash offers after these words, the last being begun."""
    line = " ".join(f"'{word}'" for word in ("tinyfleet", *words))
    ask = f"COMP_WORDS=({line}); COMP_CWORD={len(words)}; _tinyfleet; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    script = completion.script(parser(), "bash") + ask
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, timeout=30)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("ro",), {"rollouts"}),
        (("rollouts", "c"), {"create", "cancel", "create-revert"}),
        (("rollouts", "create", "--wa"), {"--waves"}),
        (("--format", "csv", "models", "y"), {"yank"}),
        (("completion", "z"), {"zsh"}),
    ],
)
def test_bash_completes_a_begun_word(words: tuple[str, ...], expected: set[str]) -> None:
    assert completed(*words) == expected
