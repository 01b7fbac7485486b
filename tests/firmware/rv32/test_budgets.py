"""The core's sizes, stack and instructions on rv32imc stay within their budgets, and growth is noticed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from device_firmware.host.rv32 import bench, budgets, toolchain
from device_firmware.host.rv32.budgets import Row
from device_firmware.host.rv32.callgraph import CallGraph, CallGraphError

pytestmark = pytest.mark.xdist_group("rv32")


@pytest.fixture(scope="module")
def measured(chip: None, tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """Every row; the table goes to the build's log."""
    rows, parts, chain = budgets.measure(tmp_path_factory.mktemp("budgets"))
    print(budgets.report(rows, parts, chain))
    return rows


def test_no_budget_is_exceeded(measured: list[Row]) -> None:
    failed = [row for row in measured if row.is_failed]
    assert failed == [], "\n" + budgets.table(measured)


def test_what_is_known_to_be_over_its_budget_still_is(measured: list[Row]) -> None:
    """A row that fits again leaves the list, so that it can never grow back unseen."""
    over = {row.name for row in measured if row.limit is not None and row.value > row.limit}
    assert set(budgets.KNOWN_OVER) <= over, "take what fits off KNOWN_OVER"


def test_the_budgets_are_those_of_the_issue(measured: list[Row]) -> None:
    limits = {row.name: row.limit for row in measured if row.limit is not None}
    assert limits == {
        "core .text": 20 * 1024,
        "core .data and .bss": 0,
        "struct fc_core": 6 * 1024,
        "struct fc_app": 4 * 1024,
        "core's own stack": 512,
        "manifest, two signatures": 5_000_000,
    }


def test_a_row_over_its_limit_fails_unless_it_is_known_and_has_not_grown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(budgets, "KNOWN_OVER", {"known": 150})
    verdicts = {
        (name, value): Row(name, value, "B", limit=100, goal=50).verdict
        for name, value in (("a", 50), ("a", 51), ("a", 100), ("a", 101), ("known", 150), ("known", 151))
    }
    assert list(verdicts.values()) == ["ok", "over goal", "over goal", "OVER", "known over", "GREW"]
    failed = [key for key in verdicts if Row(*key, "B", limit=100).is_failed]
    assert failed == [("a", 101), ("known", 151)]
    assert Row("no limit", 10**9, "B").verdict == ""


SOFT_FLOAT = re.compile(r"__\w*[sd]f")
"""libgcc's arithmetic of float and double."""


def graph_of(folder: Path, text: str) -> CallGraph:
    """The call graph of a C file."""
    (folder / "probe.c").write_text(text)
    toolchain.compile_objects(folder, [folder / "probe.c"], [*toolchain.CALL_GRAPH, "-O0"])
    return CallGraph.read([folder / "probe.ci"])


LEAF = "static void leaf(char *p) { char big[400]; p[0] = 1; big[p[1] & 3] = 2; p[2] = big[p[3] & 3]; }\n"


def test_the_deepest_chain_is_found_through_static_functions(chip: None, tmp_path: Path) -> None:
    graph = graph_of(
        tmp_path,
        LEAF + "void small(char *p);\nvoid small(char *p) { p[0] = 0; }\n"
        "void top(char *p);\nvoid top(char *p) { char b[40]; small(b); leaf(p); p[0] = b[0]; }\n",
    )
    chain = graph.deepest(["small", "top"])
    assert [name for name, _ in chain] == ["top", "probe.c:leaf"]
    assert chain[1][1] >= 400
    assert chain[0][1] >= 40


def test_recursion_and_frames_of_unknown_size_are_refused(chip: None, tmp_path: Path) -> None:
    circle = graph_of(
        tmp_path,
        "int odd(int n);\nint even(int n);\nint even(int n) { return n ? odd(n - 1) : 1; }\n"
        "int odd(int n) { return n ? even(n - 1) : 0; }\n",
    )
    with pytest.raises(CallGraphError, match="even -> odd -> even"):
        circle.deepest(["even"])
    with pytest.raises(CallGraphError, match="unknown: fc_nothing"):
        circle.deepest(["fc_nothing"])
    sized = "void grow(int n);\nvoid grow(int n) { char *p = __builtin_alloca((unsigned)n); p[0] = 1; }\n"
    with pytest.raises(CallGraphError, match="dynamic"):
        graph_of(tmp_path, sized)


def test_the_core_never_recurses_and_calls_only_a_few_functions_of_the_c_library(chip: None) -> None:
    """Every foreign call is one that needs hardly any stack: the bound on the core's own stack means
    something.
    """
    graph = CallGraph.read(sorted((bench.build().parent / "core").glob("*.ci")))
    public = [name for name in graph.frames if name.startswith("fc_")]
    assert len(public) > 80
    graph.deepest(public)
    assert {name for name in graph.foreign if not SOFT_FLOAT.match(name)} <= {
        *("memcmp", "memcpy", "memmove", "memset", "memchr", "strlen", "strcmp", "strncmp"),
        *(
            "__udivdi3",
            "__umoddi3",
            "__divdi3",
            "__moddi3",
            "__muldi3",
            "__ucmpdi2",
            "__cmpdi2",
            "__ashldi3",
            "__ashrdi3",
            "__lshrdi3",
        ),
    }, graph.foreign
