"""The API against its own description: thousands of generated calls, right ones and wrong ones."""

from collections import Counter
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, settings, strategies
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from bmi.service import users
from tests.api.test_walls import of_blue
from tests.installation import SITE, Site

__all__ = ["of_blue"]

schemathesis.serializer.alias("application/offset+octet-stream", "application/octet-stream")

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("who", "cases"), [("admin", 1_400), ("member", 700)], ids=["admin", "member"])
def test_every_answer_is_as_described(
    app: FastAPI, site: Site, of_blue: dict[str, str], who: str, cases: int
) -> None:
    users.create_user(site.core, SITE, "alice", password="correct horse battery")
    token = site.token("fuzzer", "blue" if who == "member" else None)
    schema = schemathesis.openapi.from_asgi("/v1/openapi.json", app)
    operations = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
    # Of what takes nothing there is only one call to make.
    each = cases * 3 // (2 * len(operations))
    called: Counter[str] = Counter()
    for operation in operations:
        calls = strategies.one_of(
            *(operation.as_strategy(generation_mode=mode) for mode in schemathesis.GenerationMode)
        )

        @given(case=calls, known=strategies.booleans())
        @settings(
            max_examples=each,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def call(case: schemathesis.Case[Any], known: bool) -> None:
            if known and case.path.split("/")[2] in of_blue and "{" in case.path:
                # Names that are made up lead to nothing that could be answered wrongly.
                there = of_blue[case.path.split("/")[2]]
                case.path_parameters = dict.fromkeys(case.path_parameters or {}, there)
            response = case.call(headers={"Authorization": f"Bearer {token}"})
            called[case.operation.label] += 1
            case.validate_response(response, checks=CHECKS)

        call()
    assert len(called) == len(operations)
    assert called.total() >= cases, called
