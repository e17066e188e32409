"""What middlewares share. ``Anonymous``, ``Answer`` and ``client_address`` are for their settings."""

from .addresses import Anonymous, client_address
from .settings import Answer

__all__ = ["Anonymous", "Answer", "client_address"]
