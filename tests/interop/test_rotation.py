"""All three authorities exchanged, forth and back, while people work."""

from __future__ import annotations

import os
import shutil
import signal
import time
from typing import Any

from rtunnel.admin_client import AUTHORITIES_PATH, ask
from rtunnel.state_directory import (
    ADMIN_SOCKET,
    load_certificate,
    load_trust_anchors,
)
from tests.interop.deployment import Deployment, Layout
from tests.interop.echo import Echo
from tests.interop.processes import run, wait_until
from tests.interop.programs import Proxy, rtunnel
from tests.interop.sharing import DeploymentTestCase

ROLES = ("host", "agent", "user")

#: Every phase, and the way back from every phase.
STEPS = (
    ("trusted", False),
    ("steady", True),
    ("trusted", False),
    ("signs", False),
    ("trusted", True),
    ("signs", False),
    ("retired", False),
    ("signs", True),
    ("retired", False),
)

#: Seconds that the transfer goes on for after each step, for runs by hand that last
#: several minutes.
PAUSE = float(os.environ.get("RTUNNEL_ROTATION_PAUSE", "0"))


def authorities(proxy: Proxy) -> dict[str, Any]:
    """What ``rtunnel ca status --json`` prints of each."""
    status = ask(proxy.state / ADMIN_SOCKET, "GET", AUTHORITIES_PATH)
    found: dict[str, Any] = status["authorities"]
    return found


def behind(proxy: Proxy) -> list[Any]:
    """Who has not followed."""
    return [one for each in authorities(proxy).values() for one in each["not_followed"]]


def move(proxy: Proxy, role: str, phase: str, back: bool) -> None:
    """Take a step."""
    body = {"role": role, "to": phase, "back": back}
    done = ask(proxy.state / ADMIN_SOCKET, "POST", AUTHORITIES_PATH, body)
    assert done["authority"]["phase"] == phase, done


class RotationTests(DeploymentTestCase):
    """Two proxies behind a balancer, an agent, and real ssh through all of it."""

    def check(self, deployment: Deployment, *jumps: str) -> None:
        """People get through."""
        for jump in jumps:
            out = deployment.ssh.output("-J", jump, "b", "echo through")
            self.assertEqual(out, "through\n")

    def test_a_transfer_survives_rotations_forth_and_back(self) -> None:
        """Of all three authorities at once; and from every phase one can go back."""
        deployment = self.deploy(Layout())
        deployment.wait_tunnels()
        first = deployment.proxies[0]
        before = {role: load_anchors(first, role) for role in ROLES}
        echo = Echo(deployment.ssh)
        self.addCleanup(echo.kill)
        for phase, back in STEPS:
            for role in ROLES:
                move(first, role, phase, back)
            echo.until(lambda: not behind(first), 60, f"all in phase {phase}")
            # As the operator tells people to do.
            if (phase, back) in (("trusted", False), ("signs", False)):
                deployment.ssh = deployment.person("alice", "ops")
            self.check(deployment, "lb")
            end = time.monotonic() + PAUSE
            while time.monotonic() < end:
                echo.round()
        self.check(deployment, *(proxy.name for proxy in deployment.proxies))
        echo.round()
        echo.finish()

        for proxy in deployment.proxies:
            for role in ROLES:
                anchors = load_anchors(proxy, role)
                self.assertEqual(len(anchors), 1)
                self.assertFalse(set(anchors) & set(before[role]))
            certificate = load_certificate(proxy.state / "host_key-cert.pub")
            self.assertIn(certificate.ca_key, load_anchors(proxy, "host"))
        agent = deployment.agents[0].state
        self.assertEqual(
            load_trust_anchors(agent / "host_ca.pub"), load_anchors(first, "host")
        )
        certificate = load_certificate(agent / "agent_key-cert.pub")
        self.assertIn(certificate.ca_key, load_anchors(first, "agent"))

        events = [event for proxy in deployment.proxies for event in proxy.audit()]
        rotated = [event for event in events if event["event"] == "ca_rotated"]
        self.assertEqual(len(rotated), len(STEPS) * len(ROLES))
        lost = [
            event
            for event in events
            if event["event"] in ("connection_closed", "tunnel_down")
            and event["outcome"] != "ok"
        ]
        self.assertEqual(lost, [])
        print(
            f"rotation: {echo.bytes / 2**20:.0f} MiB to and fro, longest round "
            f"{echo.longest:.2f} s"
        )

    def test_logins_of_the_old_authority_end_with_it(self) -> None:
        """An idle one at once, a busy one when it is done; or both at once, if that is
        set. Who has followed stays, and so do all tunnels."""
        deployment = self.deploy(Layout(proxies=1))
        deployment.wait_tunnels()
        (proxy,) = deployment.proxies

        def step(phase: str) -> None:
            for role in ROLES:
                move(proxy, role, phase, False)
            wait_until(lambda: not behind(proxy), 60, f"all in phase {phase}")

        def working() -> Echo:
            echo = Echo(deployment.ssh, proxy.name)
            self.addCleanup(echo.kill)
            echo.round()
            return echo

        def ended() -> list[dict[str, Any]]:
            return [each for each in proxy.audit() if each["event"] == "login_ended"]

        step("trusted")
        deployment.ssh = deployment.person("alice", "ops")
        idle = deployment.ssh.start("-N", proxy.name)
        self.addCleanup(idle.wait)
        self.addCleanup(idle.kill)
        first = working()
        step("signs")
        deployment.ssh = deployment.person("alice", "ops")
        second = working()
        step("retired")
        self.assertEqual(idle.wait(30), 255)
        first.round()
        first.finish()
        second.round()
        self.assertEqual([each["user"] for each in ended()], ["alice"])

        config = proxy.state / "proxy.toml"
        text = config.read_text()
        self.assertIn("close_on_change = false", text)
        config.write_text(
            text.replace("close_on_change = false", "close_on_change = true")
        )
        proxy.process.signal(signal.SIGHUP)
        step("trusted")
        step("signs")
        deployment.ssh = deployment.person("alice", "ops")
        third = working()
        second.round()
        step("retired")
        with self.assertRaisesRegex(AssertionError, "the transfer broke"):
            second.until(lambda: False, 30, "the login has ended")
        third.round()
        third.finish()
        self.assertEqual([each["user"] for each in ended()], ["alice"] * 2)
        for each in ended():
            self.assertIn("user authority SHA256:", each["reason"])
        self.assertEqual(len(proxy.tunnels()), 1)
        down = [each for each in proxy.audit() if each["event"] == "tunnel_down"]
        self.assertEqual({each["outcome"] for each in down}, {"ok"})

    def test_nobody_is_left_behind_unasked(self) -> None:
        """A proxy that is down stops a rotation, and catches up when it is back; an
        agent that is off for all of it says what to do."""
        deployment = self.deploy(Layout())
        deployment.wait_tunnels()
        first, second = deployment.proxies
        agent = deployment.agents[0]
        wait_until(lambda: not behind(first), 30, "everybody known")
        second_id = second.id
        second.process.stop()

        state = ("--state", first.state)
        out = run(rtunnel("ca", "rotate", "host", *state)).stdout
        self.assertIn("went from steady to trusted", out)
        refused = run(rtunnel("ca", "rotate", "host", *state), check=False)
        self.assertEqual(refused.returncode, 1)
        self.assertIn(second_id, refused.stderr)
        self.assertEqual(len(refused.stderr.splitlines()), 1)
        self.assertIn(second_id, run(rtunnel("ca", "status", *state)).stdout)

        second.start()
        second.wait_ready()
        run(rtunnel("ca", "status", "--wait", "1m", *state), timeout=90)
        self.assertEqual(load_anchors(second, "host"), load_anchors(first, "host"))

        # From here on the agent is off, and its state of before comes back.
        agent.process.stop()
        shutil.copy(agent.state / "host_ca.pub", agent.state / "kept")
        old = load_trust_anchors(agent.state / "kept")[0]
        for _ in range(2):
            run(rtunnel("ca", "rotate", "host", "--force", *state))
            wait_until(
                lambda: {one["kind"] for one in behind(first)} <= {"agent"},
                60,
                "both proxies have followed",
            )
        (agent.state / "host_ca.pub").write_text(old.to_openssh() + "\n")
        (agent.state / "host_ca.bundle").unlink()
        agent.start()
        wait_until(
            lambda: "copy host_ca.pub from" in agent.process.tail(),
            30,
            lambda: f"the agent says what to do\n{agent.process.tail()}",
        )
        shutil.copy(first.state / "host_ca.pub", agent.state / "host_ca.pub")
        deployment.wait_tunnels()


def load_anchors(proxy: Proxy, role: str) -> tuple[Any, ...]:
    """Whom a proxy's directory trusts."""
    return load_trust_anchors(proxy.state / f"{role}_ca.pub")
