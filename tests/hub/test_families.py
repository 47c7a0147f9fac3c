"""Every channel belongs to one declared family, or to none."""

from __future__ import annotations

import pytest

from rtsync.core import Channel, InvalidName, UsageError
from rtsync.hub import Families
from tests.hub.nodes import events, state


def declared(*patterns: str) -> Families:
    families = Families()
    for pattern in patterns:
        families.add(state(pattern))
    return families


def test_channel_is_found_with_its_parameters() -> None:
    """The parameters are decoded, the name is not."""
    families = declared("prices:{symbol}", "portfolio:{user}:{account}", "status")
    found = families.find(Channel("prices:BTC%2FUSD"))
    assert found is not None
    assert (str(found[0].pattern.name), found[1]) == ("prices:{symbol}", {"symbol": "BTC/USD"})
    found = families.find(Channel("portfolio:auth0%7C1:main"))
    assert found is not None
    assert found[1] == {"user": "auth0|1", "account": "main"}
    assert families.of(Channel("status")).pattern.name == "status"


@pytest.mark.parametrize("name", ["prices", "prices:a:b", "Prices:a", "other:a", "$probe:n1", ""])
def test_channel_of_no_family_is_none(name: str) -> None:
    """Asked for, it is nothing; needed, it is an error."""
    families = declared("prices:{symbol}")
    assert families.find(Channel(name)) is None
    with pytest.raises(InvalidName, match="no declared family"):
        families.of(Channel(name))


@pytest.mark.parametrize("other", ["prices:{symbol}", "prices:{name}", "prices:btc", "{kind}:btc", "{a}:{b}"])
def test_families_that_could_share_a_channel_are_refused(other: str) -> None:
    """Two owners would be two access policies."""
    families = declared("prices:{symbol}")
    with pytest.raises(UsageError, match="overlaps"):
        families.add(events(other))
    assert len(list(families)) == 1


def test_families_that_share_no_channel_stand_side_by_side() -> None:
    """In the order in which they were declared."""
    families = declared("prices:{symbol}", "prices:{symbol}:{venue}", "trades:{symbol}")
    assert [family.pattern.name for family in families] == ["prices:{symbol}", "prices:{symbol}:{venue}", "trades:{symbol}"]
