"""Fixtures of the transport suite: one HTTP endpoint as a handler, sync and async behind one face."""

from collections.abc import Callable

import pytest

from backend.tests.integration._server import FaultyServer
from backend.tests.integration.transport._endpoint import Endpoint


@pytest.fixture(params=["sync", "async"])
def endpoint(request: pytest.FixtureRequest, http_server: FaultyServer) -> Callable[..., Endpoint]:
    """Give a function that makes a handler of the real server's, sync or async, under the policies it is given."""

    def make(*policies: object, **settings: object) -> Endpoint:
        return Endpoint(http_server, request.param == "sync", policies, settings)

    return make
