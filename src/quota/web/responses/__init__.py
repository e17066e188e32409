"""Responses: those that refuse, and those on their way that hold something until they have ended."""
