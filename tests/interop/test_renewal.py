"""Certificates that last for seconds, renewed while a transfer goes on."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from rtunnel.state_directory import load_certificate, load_private_key
from rtunnel.wire.certificate import Certificate
from tests.interop.deployment import Layout
from tests.interop.echo import Echo
from tests.interop.processes import run
from tests.interop.programs import Agent, Program, rtunnel
from tests.interop.sharing import DeploymentTestCase

#: Seconds that every certificate lasts. A third of it is left to renew it, however busy
#: the machine is.
LIFE = 18


def which(program: Program) -> tuple[str, Path]:
    """What a program is, and where its certificate lies."""
    if isinstance(program, Agent):
        return "agent", program.state / "agent_key-cert.pub"
    return "proxy", program.state / "host_key-cert.pub"


def certificate(program: Program) -> Certificate:
    """What lies in its state directory now."""
    return load_certificate(which(program)[1])


class RenewalTests(DeploymentTestCase):
    """Two proxies, one of which can sign, and an agent; and real ssh through them."""

    def shorten(self, program: Program, signer: Program) -> None:
        """Sign its certificate again by hand, for seconds."""
        kind, path = which(program)
        run(
            rtunnel(
                *(kind, "renew", "--state", signer.state, "--certificate", path),
                *("--ttl", f"{LIFE}s"),
            )
        )
        program.process.signal(signal.SIGHUP)

    def test_a_transfer_outlasts_the_certificates_that_it_began_with(self) -> None:
        """Each is renewed in time, with a fresh key for the agent, and new connections
        are possible through every proxy."""
        deployment = self.deploy(
            Layout(
                proxy_settings=(
                    f"certificates.agent_ttl={LIFE}",
                    f"certificates.proxy_ttl={LIFE}",
                ),
                agent_settings=("renewal.fresh_key=true",),
            )
        )
        deployment.wait_tunnels()
        programs = [*deployment.proxies, *deployment.agents]
        for each in programs:
            self.shorten(each, deployment.proxies[0])
        first = {each.name: certificate(each) for each in programs}
        echo = Echo(deployment.ssh)
        self.addCleanup(echo.kill)

        def all_have_ended() -> bool:
            return all(time.time() > each.valid_before + 1 for each in first.values())

        echo.until(all_have_ended, 120, "the end of every first certificate")
        for program in programs:
            now = certificate(program)
            self.assertGreater(now.valid_before, time.time(), program.name)
            self.assertEqual(now.key_id, first[program.name].key_id)
            self.assertEqual(now.principals, first[program.name].principals)
        agent = deployment.agents[0]
        self.assertNotEqual(certificate(agent).key, first[agent.name].key)
        key = load_private_key(agent.state / "agent_key")
        self.assertEqual(key.public, certificate(agent).key)

        for proxy in deployment.proxies:
            ends = proxy.status()["proxy"]["certificate"]["valid_before"]
            self.assertGreater(ends, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
            out = deployment.ssh.output("-J", proxy.name, "b", "echo through")
            self.assertEqual(out, "through\n")
        echo.round()
        echo.finish()
        renewed = [
            event
            for event in deployment.proxies[0].audit()
            if event["event"] == "certificate_renewed"
        ]
        self.assertIn(agent_id(first[agent.name]), {e["agent"] for e in renewed})
        lost = [
            event
            for proxy in deployment.proxies
            for event in proxy.audit()
            if event["event"] in ("connection_closed", "tunnel_down")
            and event["outcome"] != "ok"
        ]
        self.assertEqual(lost, [])


def agent_id(certificate: Certificate) -> str:
    """The instance that an agent's certificate is for."""
    return certificate.key_id
