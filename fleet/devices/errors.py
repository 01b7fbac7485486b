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
    """A device class was refused. code: `validation`, `duplicate`, `unknown_class`."""


class EnrolmentError(DeviceError):
    """An enrolment was refused.

    code: `token_unknown`, `token_used`, `token_expired`, `unknown_class`, `device_exists`, `validation`, and
    `unavailable` when the broker's password file cannot be written.
    """
