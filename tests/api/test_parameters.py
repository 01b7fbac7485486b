"""A parameter that an operation does not have is refused, wherever it is sent."""

import pytest

from tests.api.conftest import Caller
from tests.api.test_access import SCOPES, ask

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("method", sorted({operation.split()[0] for operation in SCOPES}))
def test_no_operation_takes_a_parameter_that_it_does_not_have(call: Caller, method: str) -> None:
    for operation in (name for name in SCOPES if name.startswith(f"{method} ")):
        answer = ask(call, f"{operation}?colour=red")
        told = answer.json()
        assert (answer.status_code, told["code"]) == (422, "validation"), (operation, told)
        assert [item["pointer"] for item in told["errors"]] == ["/colour"], operation


def test_a_trial_with_a_misspelt_name_changes_nothing(call: Caller) -> None:
    answer = call.send("POST", "/devices:import?dryrun=true", b"id,tags\ndev-1,line-2\n", "text/csv")
    assert answer.json()["errors"][0]["pointer"] == "/dryrun"


def test_every_unknown_name_is_told_at_once_and_a_long_one_is_cut(call: Caller) -> None:
    told = call("GET", f"/devices?limit=5&tag=a&{'n' * 200}=1").json()
    assert [item["pointer"] for item in told["errors"]] == ["/tag", f"/{'n' * 64}"]


def test_who_may_not_ask_is_told_that_first(call: Caller) -> None:
    assert ask(call, "GET /devices?colour=red", AUTHORIZATION="").json()["code"] == "token_missing"
    assert ask(call.as_role("viewer"), "GET /tokens?colour=red").json()["code"] == "scope_missing"
