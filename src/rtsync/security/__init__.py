"""Who may see what."""

from ._access import authenticated, public
from ._authenticator import Authenticator, Refused

__all__ = ["Authenticator", "Refused", "authenticated", "public"]
