"""What is drawn over on a terminal takes as many lines there as it is counted to take."""

import os
import sys

import pytest

from fleet.cli import output


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard output is a terminal of 20 columns."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((20, 24)))


def test_a_long_sentence_is_as_many_lines_as_the_terminal_shows(terminal: None) -> None:
    lines = output.fitted("Wave 1 of 2, soaking 3 min of 2 h 00.\nNext: nothing").split("\n")
    assert lines == ["Wave 1 of 2, soaking", "3 min of 2 h 00.", "Next: nothing"]


def test_a_wide_table_is_cut_at_the_edge_of_the_terminal(terminal: None) -> None:
    lines = output.table(["A", "B"], [["x" * 15, "y" * 15]]).split("\n")
    assert [len(line) <= 20 for line in lines] == [True, True]
    assert lines[1].endswith("…")


def test_what_is_read_by_a_program_is_neither_wrapped_nor_cut() -> None:
    assert output.fitted("x " * 200) == "x " * 200
    assert "y" * 300 in output.table(["A"], [["y" * 300]])
