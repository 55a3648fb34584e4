"""Tests of :mod:`rtunnel.proxy.status` and :mod:`rtunnel.status_text`."""

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from rtunnel.proxy.status import status_document
from rtunnel.registry.records import ProxyRecord, TunnelRecord
from rtunnel.status_text import clusters_text, status_text

OWN = ProxyRecord(id="id-1", name="proxy-1", started=0.0)
OTHER = ProxyRecord(id="id-2", name="proxy-2", state="draining", started=60.0)


def tunnel(cluster: str, proxy: str, agent: str = "agent-1") -> TunnelRecord:
    """A tunnel of that proxy."""
    return TunnelRecord(
        cluster=cluster,
        agent=agent,
        proxy=proxy,
        since=0.0,
        rtt_seconds=0.0015,
        channels=2,
    )


class StatusDocumentTests(SynchronousTestCase):
    """The document that scripts read."""

    def document(self, **changes: Any) -> dict[str, Any]:
        """A document of two proxies and a cluster that is offline."""
        arguments: dict[str, Any] = {
            "own": OWN,
            "proxies": [OWN, OTHER],
            "tunnels": [tunnel("b", "id-2"), tunnel("b", "id-1")],
            "known_clusters": ["b", "c"],
        }
        return status_document(**(arguments | changes))

    def test_it_has_the_tunnels_of_every_proxy(self) -> None:
        """With the names that docs/operations.md promises."""
        document = self.document()
        self.assertEqual(document["proxy"]["name"], "proxy-1")
        self.assertEqual(
            [(p["id"], p["state"]) for p in document["proxies"]],
            [("id-1", "active"), ("id-2", "draining")],
        )
        b, c = document["clusters"]
        self.assertEqual((b["name"], b["online"]), ("b", True))
        self.assertEqual((c["name"], c["online"], c["tunnels"]), ("c", False, []))
        self.assertEqual(
            b["tunnels"][0],
            {
                "proxy": "id-1",
                "agent": "agent-1",
                "since": "1970-01-01T00:00:00Z",
                "rtt_seconds": 0.0015,
                "channels": 2,
            },
        )

    def test_tunnels_of_a_proxy_that_is_gone_are_left_out(self) -> None:
        """They ended with it, whatever the registry still says."""
        document = self.document(proxies=[OWN], tunnels=[tunnel("b", "id-2")])
        self.assertFalse(document["clusters"][0]["online"])

    def test_clusters_that_may_not_be_seen_are_left_out(self) -> None:
        """A user sees no cluster that no rule opens."""
        document = self.document(visible=lambda name: name == "c")
        self.assertEqual([c["name"] for c in document["clusters"]], ["c"])

    def test_the_text_has_a_line_for_each_cluster_and_tunnel(self) -> None:
        """And one for a cluster without tunnels."""
        document = self.document()
        self.assertEqual(
            clusters_text(document).splitlines(),
            ["CLUSTER  STATE    TUNNELS", "b        online   2", "c        offline  0"],
        )
        text = status_text(document)
        self.assertIn("proxy-1 (this)", text)
        self.assertIn("1.5 ms", text)
        self.assertEqual(text.count("agent-1"), 2)
        self.assertIn("c        -", text)
        self.assertNotIn("audit", text)

    def test_the_text_says_what_is_wrong_with_the_audit_file(self) -> None:
        """What is lost now, and what was."""
        audit: dict[str, object] = {"required": False, "lost": 0, "problem": None}
        self.assertNotIn("audit", status_text(self.document() | {"audit": audit}))
        audit |= {"lost": 3, "problem": "No space left on device"}
        text = status_text(self.document() | {"audit": audit})
        self.assertIn("cannot be written: No space left on device", text)
        self.assertIn("3 events were lost", text)

    def test_the_text_says_what_keeps_us_from_knowing_of_revocations(self) -> None:
        """And nothing while all is well."""
        revocation: dict[str, object] = {"records": 2, "problem": None}
        document = self.document() | {"revocation": revocation}
        self.assertNotIn("revocation", status_text(document))
        revocation["problem"] = "revoked.krl: Permission denied"
        self.assertIn(
            "stays in force: revoked.krl: Permission denied", status_text(document)
        )
