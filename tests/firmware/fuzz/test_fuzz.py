"""Every parser and every start survives hostile bytes: replay of all seeds and corpora, then a short search.

The long form is `python -m tests.firmware.fuzz --seconds 600`. Without clang's fuzzer runtime the tests are
skipped, unless FLEET_REQUIRE_FUZZ is set.
"""

from __future__ import annotations

import os

import pytest

from tests.firmware.fuzz.fuzzing import NEEDS, Fuzzer, find_clang
from tests.firmware.fuzz.seeds import TARGETS, corpus, seeds

SECONDS = int(os.environ.get("FLEET_FUZZ_SECONDS", "5"))

pytestmark = [pytest.mark.xdist_group("fuzz"), pytest.mark.timeout(SECONDS + 280)]


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory: pytest.TempPathFactory) -> Fuzzer:
    clang = find_clang()
    if clang is None:
        message = f"fuzzing is not tested: no clang with libFuzzer ({NEEDS})"
        if os.environ.get("FLEET_REQUIRE_FUZZ"):
            pytest.fail(message)
        pytest.skip(message)
    return Fuzzer(tmp_path_factory.mktemp("fuzz"), clang)


@pytest.mark.parametrize("target", TARGETS)
def test_hostile_bytes_in(target: str, fuzzer: Fuzzer) -> None:
    replayed = fuzzer.replay(target)
    assert replayed.inputs >= len(set(seeds(target)) | set(corpus(target)))
    found = fuzzer.search(target, SECONDS)
    print(f"{target}: {found.inputs:,} inputs, {found.coverage:,} edges, {found.kept:,} kept")
    assert found.inputs > replayed.inputs
    assert found.coverage >= replayed.coverage > 10
