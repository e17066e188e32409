"""Refusals as API Gateway words them: a status, a code, a message."""

from __future__ import annotations

from collections.abc import Iterable

NO_KEY = "Invalid API Key identifier specified"
NO_PLAN = "Invalid Usage Plan ID specified"


class Refused(Exception):
    """A request that is refused; nothing was changed."""

    def __init__(self, status: int, code: str, message: str, fields: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(status, code, message)
        self.status = status
        self.code = code
        self.message = message
        self.fields = fields


def bad_request(message: str) -> Refused:
    """Return the refusal of what cannot be meant."""
    return Refused(400, "BadRequestException", message)


def unreadable(message: str) -> Refused:
    """Return the refusal of a body that is no JSON, or in which a field is of another type."""
    return Refused(400, "SerializationException", message)


def not_found(message: str) -> Refused:
    """Return the refusal where something is not there."""
    return Refused(404, "NotFoundException", message)


def conflict(message: str) -> Refused:
    """Return the refusal of what contradicts what is there."""
    return Refused(409, "ConflictException", message)


def missing(field: str) -> Refused:
    """Return the refusal where a field that must be there is not."""
    told = f"1 validation error detected: Value null at '{field}' failed to satisfy constraint: Member must not be null"
    return Refused(400, "ValidationException", told)


def not_in_enumeration(value: object, field: str, accepted: Iterable[str]) -> Refused:
    """Return the refusal of a value that is none of an enumeration. ``value``: short and printable."""
    return Refused(
        400, "ValidationException",
        f"1 validation error detected: Value '{value}' at '{field}' failed to satisfy constraint: "
        f"Member must satisfy enum value set: [{', '.join(accepted)}]",
    )  # fmt: skip
