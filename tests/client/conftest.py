"""The client's tests run in virtual time: delays are exact, and take none."""

from __future__ import annotations

from typing import Any

import pytest

from rtsync.testing._virtual import VIRTUAL_BACKENDS


@pytest.fixture(params=VIRTUAL_BACKENDS, ids=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param
