"""Every parser and every start survives hostile bytes: all seeds and corpora, then a short search.

The long form is `python -m tests.firmware.fuzz --seconds 600`. Without clang's fuzzer runtime the tests are
skipped, unless FLEET_REQUIRE_FUZZ is set. FLEET_FUZZ_SECONDS (default 5) is for a target, two run at once.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.firmware.fuzz.fuzzing import NEEDS, Fuzzer, Run, find_clang
from tests.firmware.fuzz.seeds import TARGETS, corpus, seeds

SECONDS = int(os.environ.get("FLEET_FUZZ_SECONDS", "5"))

pytestmark = [pytest.mark.xdist_group("fuzz"), pytest.mark.timeout(len(TARGETS) * SECONDS + 400)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Run]]]:
    """Every target's run, the slow ones first."""
    clang = find_clang()
    if clang is None:
        message = f"fuzzing is not tested: no clang with libFuzzer ({NEEDS})"
        if os.environ.get("FLEET_REQUIRE_FUZZ"):
            pytest.fail(message)
        warnings.warn(message, stacklevel=1)
        pytest.skip(message)
    fuzzer = Fuzzer(tmp_path_factory.mktemp("fuzz"), clang)
    with ThreadPoolExecutor(2) as pool:
        yield {target: pool.submit(fuzzer.search, target, SECONDS) for target in reversed(TARGETS)}


@pytest.mark.parametrize("target", TARGETS)
def test_hostile_bytes_in(target: str, runs: dict[str, Future[Run]]) -> None:
    found = runs[target].result()
    print(f"{target}: {found.inputs:,} inputs, {found.coverage:,} edges, {found.kept:,} kept")
    assert found.inputs >= len(set(seeds(target)) | set(corpus(target))), "each of them ran"
    assert found.coverage > 80  # the walk over CBOR has 99 edges, and is the smallest
