"""Stock ssh, scp, sftp and rsync through HAProxy, the proxies and a tunnel."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path

from tests.interop import client_programs
from tests.interop.deployment import USER, Layout
from tests.interop.processes import LOOPBACK, run, wait_until
from tests.interop.programs import rtunnel
from tests.interop.sshd import make_key

#: What a bulk transfer moves, in bytes.
BULK = 200_000_000
_CHUNK = 1_000_000


class TwoProxiesTests(client_programs.ClientPrograms):
    """Two proxies behind the balancer."""

    layout = Layout(proxies=2, proxy_settings=('local.allow=["localhost:*"]',))

    def test_bulk_upload_arrives_whole(self) -> None:
        """200 MB there, by SHA-256."""
        path = self.scratch() / "bulk"
        digest = _write_bulk(path)
        with path.open("rb") as source:
            process = self.deployment.ssh.start(
                "web1.b", "sha256sum", stdin=source, stdout=subprocess.PIPE
            )
            printed, _ = process.communicate(timeout=120)
        self.assertEqual(printed.decode().split()[0], digest)

    def test_bulk_download_arrives_whole(self) -> None:
        """200 MB back, by SHA-256."""
        path = self.scratch() / "bulk"
        digest = _write_bulk(path)
        process = self.deployment.ssh.start(
            "web1.b", f"cat {path}", stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        received = hashlib.sha256()
        with process.stdout:
            while data := process.stdout.read(_CHUNK):
                received.update(data)
        self.assertEqual((process.wait(30), received.hexdigest()), (0, digest))

    def test_host_of_the_local_site_is_dialled_directly(self) -> None:
        """A command says the same through the tunnel and in the proxy's own cluster."""
        through_tunnel = self.deployment.ssh.output("localhost.b", "hostname; id")
        direct = self.deployment.ssh.output("localhost.a", "hostname; id")
        self.assertEqual(direct, through_tunnel)

    def test_session_without_a_target_lists_the_clusters(self) -> None:
        """ls and status, for people and for programs."""
        ssh = self.deployment.ssh
        self.assertIn("b", ssh.output("lb", "ls").split())
        self.assertIn("b", ssh.output("lb", "ls", "--json"))
        self.assertIn("b", ssh.output("lb", "status").split())
        document = json.loads(ssh.output("lb", "status", "--json"))
        (cluster,) = (each for each in document["clusters"] if each["name"] == "b")
        self.assertTrue(cluster["online"])
        self.assertEqual(len(cluster["tunnels"]), 2)

    def test_key_in_authorized_keys_logs_in(self) -> None:
        """Without a certificate; the comment is the name that [[allow]] speaks of."""
        deployment = self.deployment
        directory = deployment.directory / "without-certificate"
        directory.mkdir()
        line = make_key(directory / "id")
        key = " ".join(line.split()[:2])
        for proxy in deployment.proxies:
            (proxy.state / "authorized_keys").write_text(f"{key} ops\n")
        echo = deployment.target("echo")
        done = deployment.client(directory, None).run(
            "ssh", "-W", f"web1.b:{echo}", "lb", data=b"hi"
        )
        self.assertEqual((done.returncode, done.stdout), (0, b"hi"), done.stderr)

    def test_printed_ssh_config_is_all_that_a_person_needs(self) -> None:
        """Its host blocks and its line for known_hosts, used as they are printed."""
        ssh = self.deployment.person("bob", "ops")
        hosts, _, authority = self.deployment.ssh_config().partition("@cert-authority")
        ssh.use_hosts(hosts)
        sshd = self.deployment.sshd
        sshd.authorize((ssh.directory / "id.pub").read_text())
        (ssh.directory / "known_hosts").write_text(
            f"@cert-authority{authority}[web1.b]:{sshd.port} {sshd.host_key}\n"
        )
        printed = ssh.output("-p", str(sshd.port), f"{sshd.user}@web1.b", "echo hello")
        self.assertEqual(printed, "hello\n")

    def test_commands_of_the_operator_tell_the_same(self) -> None:
        """rtunnel ls and status, over the admin socket, know the tunnels of both."""
        state = ("--state", self.deployment.proxies[0].state)
        self.assertIn("b", run(rtunnel("ls", *state)).stdout.split())
        document = json.loads(run(rtunnel("status", "--json", *state)).stdout)
        self.assertEqual(
            document["proxy"]["id"], self.deployment.proxies[0].id, document
        )
        self.assertEqual(
            {proxy["id"] for proxy in document["proxies"]},
            {proxy.id for proxy in self.deployment.proxies},
        )
        (cluster,) = (each for each in document["clusters"] if each["name"] == "b")
        self.assertEqual(
            {tunnel["proxy"] for tunnel in cluster["tunnels"]},
            {proxy.id for proxy in self.deployment.proxies},
        )

    def test_connection_leaves_an_audit_line(self) -> None:
        """Who, what, through which proxy and agent, and how many bytes."""
        echo = self.deployment.target("echo")
        proxy = self.deployment.proxies[0]
        done = self.deployment.ssh.run(
            "ssh", "-W", f"web1.b:{echo}", proxy.name, data=b"12345"
        )
        self.assertEqual(done.stdout, b"12345")

        def ended() -> list[dict[str, object]]:
            return [
                event
                for event in proxy.audit()
                if str(echo) in str(event.get("target")) and event.get("bytes_in")
            ]

        (event,) = wait_until(ended, 5, lambda: f"audit line in {proxy.audit()[-5:]}")
        self.assertEqual(
            (event["user"], event["cluster"], event["bytes_in"], event["bytes_out"]),
            (USER, "b", 5, 5),
        )
        self.assertEqual(event["source"], LOOPBACK)


class ThreeProxiesTests(client_programs.ClientPrograms):
    """Three proxies behind the balancer."""

    layout = Layout(proxies=3)


def _write_bulk(path: Path) -> str:
    """Write random bytes and return their SHA-256."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for _ in range(BULK // _CHUNK):
            chunk = os.urandom(_CHUNK)
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()
