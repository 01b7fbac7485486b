"""The one error hierarchy of the `ota` package: every error carries a stable code.

Codes are those of `device_firmware/SPEC.md` section 5 (shared with the devices, REST and console) plus the
HTTP-only codes of the REST API. A text says what happened, which limit it broke and what was found.
"""

from __future__ import annotations


class OtaError(Exception):
    """Something was refused or failed on a model's way to a device.

    code: stable lower-case name from the shared list. text: one sentence for a person: what, limit, got.
    fix: what a person can do about it; empty when nothing sensible can be said.
    """

    def __init__(self, code: str, text: str, fix: str = "") -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text
        self.fix = fix


class RegistryError(OtaError):
    """A model, a version or a release was refused before anything changed.

    Codes: `too_large`, `media_type`, `duplicate`, `validation`, `io_contract`, `not_found`, `in_use`,
    `preflight_required`, `sequence`. existing: for `duplicate` and `in_use`, what stands in the way, as JSON
    types.
    """

    def __init__(
        self, code: str, text: str, fix: str = "", *, existing: dict[str, str] | None = None
    ) -> None:
        super().__init__(code, text, fix)
        self.existing = existing or {}


class RolloutError(OtaError):
    """A verb cannot be done. Codes: `validation`, `target_changed`, `evidence_not_current`, `approval_stale`
    (what was approved is not what would run), `approver_is_author` (a second person must decide).
    """
