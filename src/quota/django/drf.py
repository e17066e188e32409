"""Usage plans as a throttle of the Django REST framework (extra ``drf``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from rest_framework.exceptions import APIException
from rest_framework.throttling import BaseThrottle

from ..decision import Decision
from .config import check_own, front


class Refused(APIException):  # type: ignore[misc] # the framework has no types of its own
    """A request without a usable key, or one that could not be decided; ``decision`` says why."""

    def __init__(self, decision: Decision, status: int, challenge: str | None) -> None:
        super().__init__(decision.problem()["detail"], decision.reason.value.lower())
        self.decision = decision
        self.status_code = status
        if challenge is not None:
            self.auth_header = challenge


class QuotaThrottle(BaseThrottle):  # type: ignore[misc] # as above
    """Counts who presents a key by it, else the user whom the framework authenticated, else the address.

    As ``settings.QUOTA`` says (``USERS``, ``ANONYMOUS``); ``settings`` of a subclass are in place of those, in small
    letters: ``{"cost": 5}``. A limit that refuses is the framework's ``Throttled`` (429); what else refuses is
    ``Refused``. It counts each request once, whatever becomes of it: the decision is in ``request.quota``. A subclass
    whose settings cannot be meant raises ``ImproperlyConfigured`` where it is made.
    """

    settings: ClassVar[Mapping[str, Any]] = {}
    decision: Decision

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        check_own(cls._own())

    @classmethod
    def _own(cls) -> dict[str, Any]:
        return {**cls.settings, "charge": "arrival", "actual": None}

    def allow_request(self, request: Any, view: Any) -> bool:  # noqa: ARG002 -- the framework's protocol
        """Decide; raises ``Refused`` for what is no limit's refusal."""
        found = front(**self._own())
        self.decision, answer = found.decide(request._request)
        if answer is not None and answer.status != 429:
            fields = {name.lower(): value for name, value in answer.headers}
            raise Refused(self.decision, answer.status, fields.get("www-authenticate"))
        return answer is None

    def wait(self) -> float | None:
        """Seconds until it would be admitted; None where it never is."""
        return self.decision.retry_after
