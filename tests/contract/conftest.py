"""The servers have event loops of their own; what is at this end matters little, and is asyncio."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract.servers import COMBINATIONS, Combination, Running, serve


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module", params=COMBINATIONS, ids=str)
def combination(request: pytest.FixtureRequest) -> Combination:
    found: Combination = request.param
    return found


@pytest.fixture(scope="module")
def server(combination: Combination) -> Iterator[Running]:
    """One server for all tests that leave it running."""
    with serve(combination) as running:
        yield running
