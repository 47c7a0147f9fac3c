"""The channels of one node at work: publishing, fan-out, sources."""

from ._channel import LiveChannel
from ._families import Access, Families, Family, Principal, SourceSpec
from ._hub import Hub, HubStatistics
from ._loose import LooseTasks
from ._models import Validator, validator_for
from ._options import HubOptions
from ._publisher import Publisher
from ._session import Session
from ._source import Changes

__all__ = [
    "Access",
    "Changes",
    "Families",
    "Family",
    "Hub",
    "HubOptions",
    "HubStatistics",
    "LiveChannel",
    "LooseTasks",
    "Principal",
    "Publisher",
    "Session",
    "SourceSpec",
    "Validator",
    "validator_for",
]
