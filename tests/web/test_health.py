"""Health and readiness."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from rtunnel.web.health import health_routes


class HealthTests(SynchronousTestCase):
    """What balancers hear."""

    def setUp(self) -> None:
        self.reasons: list[str] = []
        self.routes = health_routes(lambda: self.reasons)

    def test_ready_as_long_as_there_is_no_reason_not_to_be(self) -> None:
        """The reasons are asked for anew each time."""
        readyz = self.routes["/readyz"]["GET"]
        self.assertEqual(readyz().status, 200)
        self.assertEqual(readyz().body, {"ready": True, "reasons": []})
        self.reasons.append("draining")
        self.assertEqual(readyz().status, 503)
        self.assertEqual(readyz().body, {"ready": False, "reasons": ["draining"]})

    def test_alive_even_when_not_ready(self) -> None:
        """A proxy that drains must not be restarted for it."""
        self.reasons.append("draining")
        response = self.routes["/healthz"]["GET"]()
        self.assertEqual((response.status, response.body), (200, {"status": "ok"}))
