"""Tests of :mod:`rtunnel.proxy.refusals`."""

from twisted.trial.unittest import SynchronousTestCase

from rtunnel.naming import Target
from rtunnel.proxy import refusals


class RefusalTests(SynchronousTestCase):
    """What a client is told."""

    def test_each_way_to_fail_has_its_code(self) -> None:
        """RFC 4254 section 5.1: 1 prohibited, 2 connect failed, 4 shortage."""
        target = Target("web1", "b", 22)
        for refusal, code in (
            (refusals.not_allowed("alice", target), 1),
            (refusals.unknown_cluster("x", []), 1),
            (refusals.offline("b"), 2),
            (refusals.no_answer("b", 15), 2),
            (refusals.tunnel_lost("b"), 2),
            (refusals.draining(), 4),
            (refusals.too_many_sessions(10), 4),
            (refusals.share_taken("alice", "b", 500), 4),
            (refusals.share_of_link_taken("alice", "proxy-2", 500), 4),
            (refusals.peer_unreachable("b", "proxy-2", "no route"), 2),
            (refusals.peer_no_answer("b", "proxy-2", 20), 2),
            (refusals.peer_lost("b", "proxy-2"), 2),
            (refusals.not_allowed_by_peer("alice", target, "proxy-2"), 1),
            (refusals.login_not_accepted("b", "proxy-2"), 1),
            (refusals.local_for_peer(target, "proxy-2"), 1),
            (refusals.no_tunnel_at_peer("b", "proxy-2"), 4),
            (refusals.fault_at_peer(refusals.no_answer("b", 15)), 4),
            (refusals.peer_draining("proxy-2"), 4),
        ):
            self.assertEqual(refusal.reason_code, code, refusal.text)

    def test_a_near_miss_is_suggested(self) -> None:
        """Only from the names passed in, which are those the user may know."""
        self.assertIn("'paris'", refusals.unknown_cluster("pariss", ["paris"]).text)
        self.assertNotIn("mean", refusals.unknown_cluster("pariss", ["oslo"]).text)

    def test_a_name_alone_may_be_a_host(self) -> None:
        """Whoever forgets the cluster is told how to write it."""
        said = refusals.unknown_cluster("web1", ["b"], alone=True).text
        self.assertEqual(
            said, "there is no cluster 'web1'; a host is written HOST.CLUSTER"
        )
