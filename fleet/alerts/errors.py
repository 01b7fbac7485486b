"""The one error hierarchy of `fleet.alerts`: a stable code and a sentence for people.

A state that does not allow what is asked raises `ota.transitions.IllegalTransition`, as everywhere.
"""


class AlertError(Exception):
    """A rule, a silence, a webhook or an address was refused.

    code: `validation`, `duplicate`, `not_found`, `stale` (changed since it was read), `address_refused` (a
    webhook's host is private or none), `timeout` or `unreachable` (a receiver did not answer in time, or not
    at all). field: the input it is about, "" for none.
    """

    def __init__(self, code: str, text: str, *, field: str = "") -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text
        self.field = field
