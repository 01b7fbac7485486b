"""What each role may do: the table of scopes that REST, console and tokens share (rest-api.md "Scopes and
roles").
"""

from typing import Final

from fleet.accounts.models import Role, User

READ: Final = frozenset({"devices:read", "models:read", "rollouts:read", "telemetry:read"})
_OPERATE: Final = frozenset({"audit:read", "devices:write", "models:write", "rollouts:write"})
_APPROVE: Final = frozenset({"audit:read", "models:sign", "rollouts:approve"})
_ADMINISTER: Final = frozenset({"devices:admin", "keys:admin", "users:admin", "webhooks:write"})

ROLE_SCOPES: Final[dict[str, frozenset[str]]] = {
    Role.VIEWER: READ,
    Role.OPERATOR: READ | _OPERATE,
    Role.APPROVER: READ | _APPROVE,
    Role.ADMIN: READ | _OPERATE | _APPROVE | _ADMINISTER,
}
ALL_SCOPES: Final = ROLE_SCOPES[Role.ADMIN]


def scopes_of(user: User) -> frozenset[str]:
    """What a person may do now; nothing once the account is disabled."""
    return ROLE_SCOPES.get(user.role, frozenset()) if user.is_active else frozenset()
