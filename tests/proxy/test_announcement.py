"""Tests of :mod:`rtunnel.proxy.announcement`."""

from uuid import UUID

from twisted.trial.unittest import SynchronousTestCase

from rtunnel.discovery.messages import MAX_PROXIES
from rtunnel.proxy.announcement import RESEND, TTL, announce
from rtunnel.registry.records import ProxyRecord, State


def record(number: int, state: State = "active") -> ProxyRecord:
    """A proxy with an id that sorts by its number."""
    return ProxyRecord(
        id=str(UUID(int=number)),
        name=f"proxy-{number}",
        addresses=(f"10.0.0.{number}:3023",),
        generation=number,
        state=state,
    )


class AnnounceTests(SynchronousTestCase):
    """The discovery request that agents get."""

    def test_every_proxy_is_listed_with_its_state(self) -> None:
        """A draining one too: agents must know not to want it."""
        request = announce([record(2, "draining"), record(1)])
        self.assertEqual(
            [(p.id, p.state, p.addresses, p.generation) for p in request.proxies],
            [
                (str(UUID(int=1)), "active", ("10.0.0.1:3023",), 1),
                (str(UUID(int=2)), "draining", ("10.0.0.2:3023",), 2),
            ],
        )
        self.assertEqual(request.resend, RESEND)

    def test_a_name_outlives_three_missed_requests(self) -> None:
        """Or one lost request would make agents forget a proxy that is up."""
        self.assertGreater(TTL, 3 * RESEND)

    def test_more_than_the_limit_are_cut_active_ones_first(self) -> None:
        """Every proxy cuts the same ones, so agents see one picture."""
        draining = [record(n, "draining") for n in range(1, 4)]
        active = [record(n) for n in range(4, 4 + MAX_PROXIES)]
        request = announce(draining + active)
        self.assertEqual(
            [p.id for p in request.proxies], [record.id for record in active]
        )
