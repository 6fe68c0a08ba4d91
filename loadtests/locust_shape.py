"""A shape of loadtests/shapes.py as Locust takes it. It stands by itself: Locust uses every such class that a locustfile names."""

from __future__ import annotations

from locust import LoadTestShape

from loadtests.shapes import users_at


class Shaped(LoadTestShape):
    """A shape with its peak of users and its length in seconds."""

    def __init__(self, name: str, peak: int, seconds: float) -> None:
        super().__init__()
        self._name, self._peak, self._seconds = name, peak, seconds

    def tick(self) -> tuple[int, float] | None:
        """(users, users a second to get there), None at the end. Locust asks once a second."""
        users = users_at(self._name, self._peak, self._seconds, self.get_run_time())
        return None if users is None else (users, float(self._peak))
