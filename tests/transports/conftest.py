"""What runs in memory runs in virtual time; only `test_servers` has real sockets."""

from __future__ import annotations

from typing import Any

import pytest

from rtsync.testing import VIRTUAL_BACKENDS


@pytest.fixture(params=VIRTUAL_BACKENDS, ids=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param
