"""All that middlewares share, and the usage page.

``Anonymous``, ``Answer``, ``client_address`` are for their settings.
"""

from .addresses import Anonymous, client_address
from .settings import Answer
from .usage.page import usage_page

__all__ = ["Anonymous", "Answer", "client_address", "usage_page"]
