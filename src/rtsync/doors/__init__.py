"""Doors into the apps that people already have: each a thin file, none imported before it is used."""

from ._autostart import Autostart
from ._lifespan import Lifespan, answer_lifespan, combine
from ._paths import below, relative_path
from ._starter import Starter
from ._wrap import ForeignApp, Wrapped

__all__ = ["Autostart", "ForeignApp", "Lifespan", "Starter", "Wrapped", "answer_lifespan", "below", "combine", "relative_path"]
