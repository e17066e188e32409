"""Stores: one file each. ``memory`` is always there; the others are imported when their URL is opened."""
