"""Schemathesis against the API of jobs: it believes the OpenAPI document, and looks for what does not hold."""

# Its own types are not complete.
# pyright: reportUnknownMemberType=false, reportUntypedFunctionDecorator=false

import json
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, settings

from backend.tests.integration.api._jobs import COMMITTED, OPERATE, Shop
from holdfast.api.internal.jobs.app import PREFIX

DOCUMENT: dict[str, Any] = json.loads(COMMITTED.read_text(encoding="utf-8"))
# A handler may be unknown and rows may contradict each other, which no schema can say; nor whether a job has ended.
_SOUND = {"positive_data_acceptance": {"expected-statuses": ["2xx", "401", "403", "404", "409", "422"]}}
# To say what is wrong is what a check is for.
_TOLD = {"negative_data_rejection": {"expected-statuses": ["200", "4xx"]}}
CONFIG = schemathesis.Config.from_dict(
    {
        "checks": _SOUND,
        "operations": [{"include-path": f"{PREFIX}/jobs/check", "checks": {**_SOUND, **_TOLD}}],
    }
)


class Door:
    """Leads to an application that is made when it is needed."""

    leads_to: Any

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.leads_to(scope, receive, send)


DOOR = Door()
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT, config=CONFIG)
SCHEMA.app = DOOR
# Streams have no end; their own tests are in test_jobs_events_integration.py.
SOUND = SCHEMA.exclude(path=f"{PREFIX}/progress").exclude(path=f"{PREFIX}/jobs/{{job}}/events/stream")


@SOUND.parametrize()
@settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.filter_too_much,
        HealthCheck.function_scoped_fixture,
    ],
)
def test_schemathesis_finds_nothing(case: schemathesis.Case[Any], hunted_shop: Shop) -> None:
    """Whatever is sent, valid or not, is answered as the document says: every check of schemathesis holds."""
    DOOR.leads_to = hunted_shop.app
    case.call_and_validate(headers={"Authorization": f"Bearer {OPERATE}"})
