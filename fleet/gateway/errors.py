"""The one error of `fleet.gateway`: a stable code and a sentence for people."""


class GatewayError(Exception):
    """A gateway cannot do its work.

    code: `slot_taken`: another gateway, of this machine or another, has the slot.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text
