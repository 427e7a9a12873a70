"""Schemathesis against the application: it believes the OpenAPI document, and looks for what does not hold."""

# Its own types are not complete.
# pyright: reportUnknownMemberType=false, reportUntypedFunctionDecorator=false

import json
from pathlib import Path
from typing import Any

import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, settings

from backend.tests.integration.api._service import OPERATE
from holdfast.api.internal.resilience.app import PREFIX
from holdfast.infrastructure.resilience.clock import use_clock
from holdfast.testing.clock import VirtualClock

ROOT = Path(__file__).resolve().parents[4]
COMMITTED = ROOT / "backend/contracts/api/internal/resilience/openapi.json"
DOCUMENT: dict[str, Any] = json.loads(COMMITTED.read_text(encoding="utf-8"))
CLOCK = VirtualClock()

# A preset may be unknown and settings may contradict each other, which no schema can say.
CONFIG = schemathesis.Config.from_dict(
    {
        "operations": [
            {
                "include-path": f"{PREFIX}/config/apply",
                "checks": {"positive_data_acceptance": {"expected-statuses": ["200", "422"]}},
            }
        ]
    }
)


class Door:
    """Leads to an application that is made when it is needed: made with the file, it would run through all tests."""

    leads_to: Any

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.leads_to(scope, receive, send)


DOOR = Door()
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT, config=CONFIG)
SCHEMA.app = DOOR
# A stream of events has no end; its own tests are in test_events_integration.py.
SOUND = SCHEMA.exclude(path=f"{PREFIX}/events")


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
def test_schemathesis_finds_nothing(case: schemathesis.Case[Any], hunted_app: FastAPI) -> None:
    """Whatever is sent, valid or not, is answered as the document says: every check of schemathesis holds."""
    DOOR.leads_to = hunted_app
    with use_clock(CLOCK):
        # No validation is one too many.
        CLOCK.advance(3600.0)
        case.call_and_validate(headers={"Authorization": f"Bearer {OPERATE}"})
