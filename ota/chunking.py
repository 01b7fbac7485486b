"""How an artifact is cut into chunks and hashed into leaves (SPEC.md sections 1 and 4)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from fleet.mqtt import topics

CHUNK_BYTES = 4096
SEGMENT_CHUNKS = topics.SEGMENT_CHUNKS
LEAF_BYTES = 8
MAX_CHUNKS = 1023


@dataclass(frozen=True)
class Layout:
    """Chunk counts of a model of `size` bytes and a golden blob of `blob_size` bytes behind it."""

    size: int
    blob_size: int = 0

    @property
    def model_chunks(self) -> int:
        """Chunks of the model; the last may be shorter."""
        return -(-self.size // CHUNK_BYTES)

    @property
    def blob_chunks(self) -> int:
        """Chunks of the golden blob; they start at the next whole index."""
        return -(-self.blob_size // CHUNK_BYTES)

    @property
    def total(self) -> int:
        """All chunks of the artifact."""
        return self.model_chunks + self.blob_chunks

    @property
    def segments(self) -> int:
        """Segments of `SEGMENT_CHUNKS` chunks."""
        return -(-self.total // SEGMENT_CHUNKS)

    @property
    def leaves_bytes(self) -> int:
        """Length of the leaf list."""
        return self.total * LEAF_BYTES

    @property
    def padded_bytes(self) -> int:
        """What the artifact takes of a slot's capacity: whole chunks."""
        return self.total * CHUNK_BYTES

    def chunk_bytes(self, index: int) -> int:
        """Exact length of a chunk. Raises IndexError when there is none of that index."""
        if not 0 <= index < self.total:
            raise IndexError(f"chunk {index} of {self.total}")
        if index < self.model_chunks:
            return min(CHUNK_BYTES, self.size - index * CHUNK_BYTES)
        return min(CHUNK_BYTES, self.blob_size - (index - self.model_chunks) * CHUNK_BYTES)


def chunk(data: bytes, blob: bytes, index: int) -> bytes:
    """The bytes of one chunk of model `data` and golden `blob`. Raises IndexError beyond the last."""
    layout = Layout(len(data), len(blob))
    size = layout.chunk_bytes(index)
    if index < layout.model_chunks:
        start = index * CHUNK_BYTES
        return data[start : start + size]
    start = (index - layout.model_chunks) * CHUNK_BYTES
    return blob[start : start + size]


def chunks(data: bytes, blob: bytes = b"") -> Iterator[bytes]:
    """All chunks in order of their index."""
    for index in range(Layout(len(data), len(blob)).total):
        yield chunk(data, blob, index)


def leaf(index: int, chunk_data: bytes) -> bytes:
    """The 8-byte leaf of a chunk: it also covers the index, so chunks cannot be swapped."""
    return hashlib.sha256(b"\0" + index.to_bytes(4, "big") + chunk_data).digest()[:LEAF_BYTES]


def leaves(data: bytes, blob: bytes = b"") -> bytes:
    """The leaf list of an artifact: what is published at `.../leaves` and hashed into manifest key 9."""
    return b"".join(leaf(index, part) for index, part in enumerate(chunks(data, blob)))


def leaves_sha256(data: bytes, blob: bytes = b"") -> bytes:
    """SHA-256 of the leaf list, manifest key 9."""
    return hashlib.sha256(leaves(data, blob)).digest()


def chunk_publications(mid: str, data: bytes, blob: bytes = b"") -> Iterator[tuple[str, bytes]]:
    """(topic, payload) of every chunk."""
    for index, part in enumerate(chunks(data, blob)):
        yield topics.chunk(mid, index), part


def publications(mid: str, manifest: bytes, data: bytes, blob: bytes = b"") -> Iterator[tuple[str, bytes]]:
    """(topic, payload) of everything a model version has retained: chunks, leaves, the signed manifest.

    In this order nobody who sees the manifest looks for chunks that are not there yet.
    """
    yield from chunk_publications(mid, data, blob)
    yield topics.leaves(mid), leaves(data, blob)
    yield topics.manifest(mid), manifest


def publication_topics(mid: str, layout: Layout) -> Iterator[str]:
    """Every topic a model version has retained, in the order of `publications`."""
    for index in range(layout.total):
        yield topics.chunk(mid, index)
    yield topics.leaves(mid)
    yield topics.manifest(mid)
