"""The one error hierarchy of `fleet.devices`: a stable code and a sentence for people."""


class DeviceError(Exception):
    """Something about a device, a class or an enrolment was refused.

    code: stable lower-case name shared by REST, commands and logs. field: the input it is about, "" for none.
    """

    def __init__(self, code: str, text: str, *, field: str = "") -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text
        self.field = field


class ClassError(DeviceError):
    """A device class was refused. code: `validation`, `duplicate`, `unknown_class`, `stale`."""


class EnrolmentError(DeviceError):
    """An enrolment was refused.

    code: `token_unknown`, `token_used`, `token_expired`, `unknown_class`, `device_exists`, `validation`, and
    `unavailable` when the broker's password file cannot be written.
    """


class QuarantineError(DeviceError):
    """A device could not be put into quarantine or released. code: `validation`, `illegal_transition`.

    state: where the device is. allowed: what could be asked for instead.
    """

    def __init__(self, code: str, text: str, *, state: str = "", allowed: list[str] | None = None) -> None:
        super().__init__(code, text, field="" if state else "reason")
        self.state = state
        self.allowed = allowed or []


class RetirementError(DeviceError):
    """A device could not be taken out of service. code: `validation`, `not_found`, `illegal_transition`,
    `unavailable` when it is, and still has its access to the broker.

    state: where the device is; nothing is allowed from there.
    """

    def __init__(self, code: str, text: str, *, state: str = "") -> None:
        super().__init__(code, text, field="reason" if code == "validation" else "")
        self.state = state
        if state:
            self.allowed: list[str] = []


class QueryError(DeviceError):
    """A query was not understood, or names what does not exist; it selects nothing.

    code: `query_syntax` or `query_unknown_field`. position: characters before the place that is wrong.
    nearest: names that exist and look like the one that was meant, best first.
    """

    def __init__(self, code: str, text: str, *, position: int, nearest: list[str]) -> None:
        near = f"; did you mean {' or '.join(nearest)}?" if nearest else ""
        super().__init__(code, f"{text}{near}", field="q")
        self.position = position
        self.nearest = nearest


class GroupError(DeviceError):
    """A group, a tag, an attribute or an import was refused; nothing was changed.

    code: `validation`, `duplicate`, `not_found`, `in_use`, `stale`, `immutable`, `unknown_device`,
    `unknown_group`, `group_query_invalid`. line: of the imported text, from 1; 0 for none. position, nearest:
    as QueryError has them, for a query that is wrong.
    """

    def __init__(
        self,
        code: str,
        text: str,
        *,
        field: str = "",
        line: int = 0,
        position: int | None = None,
        nearest: list[str] | None = None,
    ) -> None:
        super().__init__(code, text, field=field)
        self.line = line
        self.position = position
        self.nearest = nearest or []
