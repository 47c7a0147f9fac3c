"""Access policies: who may subscribe to the channels of a family."""

from __future__ import annotations

from collections.abc import Mapping

from ..hub import Principal

__all__ = ["authenticated", "public"]


def public(principal: Principal, params: Mapping[str, str]) -> bool:
    """Let everybody in, also who did not authenticate."""
    return True


def authenticated(principal: Principal, params: Mapping[str, str]) -> bool:
    """Let in whoever the authenticator vouches for."""
    return principal.user is not None
