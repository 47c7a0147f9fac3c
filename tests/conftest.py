"""What every test shares: both event loops, and a Hypothesis that does not judge by the wall clock."""

from __future__ import annotations

import pytest
from hypothesis import settings

pytest.register_assert_rewrite("rtsync.testing")  # so that a failing kit shows the values it compared

# A busy machine makes an example slow, never wrong.
settings.register_profile("rtsync", deadline=None)
settings.load_profile("rtsync")


@pytest.fixture(scope="module", params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """The event loop an async test runs on. Module scope, so that module-scoped async fixtures can exist on both."""
    backend: str = request.param
    return backend
