"""What a device is given at enrolment to judge every later trust document by."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrustAnchor:
    """Root public keys (32 raw bytes each), how many of them must sign, and the least trust version to
    accept.
    """

    roots: tuple[bytes, ...]
    threshold: int
    least_version: int
