"""Chunk maps: every byte is in exactly one chunk, the blob begins at a whole index."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.mqtt import topics
from ota import chunking
from ota.chunking import CHUNK_BYTES, Layout
from tests.vectors.keys import pattern

MID = "0011223344556677"
sizes = st.one_of(
    st.integers(1, 5 * CHUNK_BYTES),
    st.integers(1, 5).map(lambda n: n * CHUNK_BYTES),
    st.integers(1, 5).map(lambda n: n * CHUNK_BYTES + 1),
)
blob_sizes = st.just(0) | sizes


@given(sizes, blob_sizes)
def test_chunks_are_the_model_then_the_blob_and_nothing_else(size: int, blob_size: int) -> None:
    data, blob = pattern("m", size), pattern("b", blob_size)
    layout = Layout(size, blob_size)
    parts = list(chunking.chunks(data, blob))
    assert len(parts) == layout.total == layout.model_chunks + layout.blob_chunks
    assert b"".join(parts[: layout.model_chunks]) == data
    assert b"".join(parts[layout.model_chunks :]) == blob
    assert [len(part) for part in parts] == [layout.chunk_bytes(index) for index in range(layout.total)]
    whole = parts[: layout.model_chunks - 1] + parts[layout.model_chunks : -1]
    assert all(len(part) == CHUNK_BYTES for part in whole), "only the last chunk of a part is short"
    assert all(1 <= len(part) <= CHUNK_BYTES for part in parts)
    assert layout.segments == len({index // 16 for index in range(layout.total)})
    assert layout.padded_bytes == layout.total * CHUNK_BYTES >= size + blob_size


@given(sizes, blob_sizes)
def test_leaves_cover_content_and_place(size: int, blob_size: int) -> None:
    data, blob = pattern("m", size), pattern("b", blob_size)
    leaves = chunking.leaves(data, blob)
    assert len(leaves) == Layout(size, blob_size).leaves_bytes
    for index, part in enumerate(chunking.chunks(data, blob)):
        leaf = leaves[8 * index : 8 * index + 8]
        assert leaf == hashlib.sha256(b"\0" + index.to_bytes(4, "big") + part).digest()[:8]
        assert leaf != chunking.leaf(index + 1, part), "a chunk in another place is another leaf"
        assert leaf != chunking.leaf(index, part[:-1])
    assert chunking.leaves_sha256(data, blob) == hashlib.sha256(leaves).digest()


@given(sizes, blob_sizes)
def test_everything_is_published_once_and_the_manifest_last(size: int, blob_size: int) -> None:
    data, blob = pattern("m", size), pattern("b", blob_size)
    layout = Layout(size, blob_size)
    sent = list(chunking.publications(MID, b"manifest", data, blob))
    names = [topic for topic, _ in sent]
    assert len(set(names)) == len(names) == layout.total + 2
    assert names == list(chunking.publication_topics(MID, layout))
    assert sent[-1] == (topics.manifest(MID), b"manifest")
    assert sent[-2] == (topics.leaves(MID), chunking.leaves(data, blob))
    assert dict(sent[:-2]) == {
        f"f1/model/{MID}/{index // 16}/{index}": part
        for index, part in enumerate(chunking.chunks(data, blob))
    }


@pytest.mark.parametrize("index", [-1, 2, 10**9])
def test_there_is_no_chunk_beyond_the_last(index: int) -> None:
    with pytest.raises(IndexError):
        chunking.chunk(bytes(4097), b"", index)


def test_the_largest_artifact_has_1023_chunks() -> None:
    layout = Layout(4_186_112, 4096)
    assert (layout.total, layout.segments, layout.leaves_bytes) == (1023, 64, 8184)
