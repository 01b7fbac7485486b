"""The one error of the protocol codecs: a stable code and a sentence for people."""

from __future__ import annotations


class CodecError(Exception):
    """Bytes that were refused.

    code: a name that tests, dead letters and refusals share: for uplinks `too_large, cbor_bad, mac_missing,
    mac_bad, key_unknown, format_unknown, range, bad_window, topic_bad` and, of JSON, `malformed_json`, for
    signed documents the labels of `RefusalCode`. text: what was found, what the limit is, what arrived; never
    received bytes or keys.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text

    def __reduce__(self) -> tuple[type[CodecError], tuple[str, str]]:
        """Pickle by both arguments, so that the error crosses process borders whole."""
        return (type(self), (self.code, self.text))
