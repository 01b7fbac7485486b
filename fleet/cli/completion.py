"""Completion scripts, made from the command line itself, so that they never lag behind it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Final

SHELLS: Final = ("bash", "zsh")
_BASH: Final = """\
_tinyfleet() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} path= one
    for one in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case $one in -*) ;; *) [ -n "$(_tinyfleet_words "$path $one")" ] && path="$path $one" ;; esac
    done
    COMPREPLY=($(compgen -W "$(_tinyfleet_words "$path")" -- "$word"))
    [ ${{#COMPREPLY[@]}} -eq 0 ] && COMPREPLY=($(compgen -f -- "$word"))
}}
_tinyfleet_words() {{
    case $1 in
{cases}
    esac
}}
complete -F _tinyfleet tinyfleet
"""


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script for one of SHELLS; `eval "$(tinyfleet completion bash)"` loads it."""
    cases = "\n".join(f'        "{path}") echo "{" ".join(words)}" ;;' for path, words in _words(parser))
    bash = _BASH.replace("{{", "{").replace("}}", "}").replace("{cases}", cases)
    return bash if shell == "bash" else f"autoload -U +X bashcompinit && bashcompinit\n{bash}"


def _words(parser: argparse.ArgumentParser, path: str = "") -> Iterator[tuple[str, list[str]]]:
    options = [text for action in parser._actions for text in action.option_strings if text.startswith("--")]
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    names = [name for action in below for name in action.choices]
    choices = [str(one) for action in parser._actions if not action.option_strings and action not in below
               for one in action.choices or ()]  # fmt: skip
    yield path, [*names, *choices, *options]
    for action in below:
        for name, child in action.choices.items():
            yield from _words(child, f"{path} {name}")
