"""The one error hierarchy of `fleet.accounts`, beside `TokenError`: a stable code, a sentence for people."""


class AccountError(Exception):
    """Something about a person, an invitation or a second factor was refused; nothing was changed.

    code: `validation`, `not_found`, `in_use` (the last administrator, oneself), `duplicate`, `stale`,
    `illegal_transition` (of a second factor or an invitation that is used or over). field: the input it is
    about, "" for none.
    """

    def __init__(self, code: str, text: str, *, field: str = "") -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text
        self.field = field
