"""The core on rv32imc judges every shared vector as Python does, and understands the good ones alike."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator

import pytest

from device_firmware.host.rv32.bench import Answer
from tests.firmware.rv32 import documents
from tests.firmware.rv32.conftest import Run
from tests.firmware.rv32.documents import Book, Case

pytestmark = pytest.mark.xdist_group("rv32")


@pytest.fixture(scope="module")
def book() -> Book:
    """Every vector in one script."""
    return Book()


@pytest.fixture(scope="module")
def answers(on_chip: Run, book: Book) -> list[Answer]:
    """What the chip said: one run of the emulator for all vectors."""
    return on_chip(book.script)


def good(cases: list[Case]) -> Iterator[Case]:
    """The cases of documents to accept; there are some."""
    found = [case for case in cases if case.vector["expect"] == "ok"]
    assert found
    return iter(found)


@pytest.mark.parametrize("kind", documents.KINDS)
def test_every_vector_gets_the_code_that_it_names(kind: str, book: Book, answers: list[Answer]) -> None:
    wrong = []
    for case in book.cases[kind]:
        said, wanted = documents.code(answers[case.answer]), case.vector["expect"]
        if kind == "cbor":  # the bare reader has one code, which the documents call schema
            said, wanted = ("ok" if said == "ok" else "cbor_bad"), wanted
        if said != wanted:
            wrong.append(f"{case.vector['name']}: {said}, not {wanted}")
    assert wrong == []
    in_file = json.loads((documents.FOLDER / f"{kind}.json").read_text())["vectors"]
    for_c = [item for item in in_file if "c" in item.get("readers", ("c",))]
    left_out = [item for item in for_c if kind == "cbor" and item["expect"] == "too_large"]
    assert len(book.cases[kind]) == len(for_c) - len(left_out) > 0


def test_accepted_manifests_have_the_fields_that_python_reads(book: Book, answers: list[Answer]) -> None:
    for case in good(book.cases["manifest"]):
        wanted = documents.manifest_fields(bytes.fromhex(case.vector["hex"]))
        assert answers[case.answer].fields == wanted, case.vector["name"]


def test_accepted_trust_documents_are_the_ones_held(book: Book, answers: list[Answer]) -> None:
    for case in good(book.cases["trust"]):
        wanted = documents.trust_fields(bytes.fromhex(case.vector["hex"]))
        assert answers[case.state].fields[: len(wanted)] == wanted, case.vector["name"]


def test_accepted_desired_documents_say_what_is_wanted(book: Book, answers: list[Answer]) -> None:
    for case in good(book.cases["desired"]):
        wanted = documents.desired_fields(
            bytes.fromhex(case.vector["hex"]), case.vector.get("config_invalid", [])
        )
        keys = {"desired", "entry", "entry_id", "config", "invalid"}
        found = [(key, value) for key, value in answers[case.state].fields if key in keys]
        assert found == wanted, case.vector["name"]


def test_accepted_commands_raise_the_counter(book: Book, answers: list[Answer]) -> None:
    for case in good(book.cases["cmd"]):
        counter = documents.command_counter(bytes.fromhex(case.vector["hex"]))
        assert answers[case.state].number("cmd") == counter, case.vector["name"]


@pytest.mark.parametrize("kind", ["trust", "desired"])
def test_a_refused_document_changes_nothing(kind: str, book: Book, answers: list[Answer]) -> None:
    refused = [case for case in book.cases[kind] if case.vector["expect"] != "ok"]
    for case in refused:
        before, after = answers[case.before].fields, answers[case.state].fields
        # a refusal is told, and a document may ask for a newer trust document; nothing else moves
        assert [pair for pair in after if pair[0] != "sent"] == [
            pair for pair in before if pair[0] != "sent"
        ], case.vector["name"]
    assert len(refused) > 50


def test_the_malleable_twins_are_among_the_refused(book: Book, answers: list[Answer]) -> None:
    twins = Counter(
        kind
        for kind, cases in book.cases.items()
        for case in cases
        if "twin" in case.vector["name"] and answers[case.answer].result < 0
    )
    assert twins == {"manifest": 2, "desired": 1, "cmd": 1, "trust": twins["trust"]}
    assert twins["trust"] >= 1
