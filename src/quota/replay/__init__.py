"""Recorded traffic, replayed through a plan."""

from .run import replay

__all__ = ["replay"]
