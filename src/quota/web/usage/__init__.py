"""A page on which the holder of a key sees what it has used: JSON for programs, HTML for people."""

from .page import UsagePage, usage_page

__all__ = ["UsagePage", "usage_page"]
