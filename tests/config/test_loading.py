"""Config files read: :mod:`rtunnel.config.loading`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from rtunnel.config import (
    Address,
    AgentConfig,
    LimitsConfig,
    ProxyConfig,
    SshConfig,
    TunnelConfig,
    load_agent,
    load_proxy,
)
from rtunnel.config.structuring import key_names
from rtunnel.config.toml_text import render_document
from rtunnel.config.values import host_name
from rtunnel.errors import ConfigError
from rtunnel.trust.policy import AllowRule
from tests.config.files import PROXY, LoadingTestCase

AGENT = """
cluster = "b"
state = "/var/lib/rtunnel"
proxies = ["lb.example.com:3023", "tls:lb.example.com"]
tunnels = 2
allow = ["localhost:22", "10.0.0.0/8:*"]
resolve = {"Web1.lan." = "10.0.0.5", db = "::FFFF:10.0.0.6"}
close_on_change = true

[tunnel]
heartbeat = 1
"""


class ProxyFileTests(LoadingTestCase):
    """``proxy.toml`` as it should be."""

    def test_cluster_alone_is_enough(self) -> None:
        """Every other key has the default of docs/operations.md, and no rule allows."""
        path = self.write('cluster = "a"')
        config = load_proxy(path)
        state = self.directory
        self.assertEqual(config, ProxyConfig(
            path=path, cluster="a", name=host_name(), state=state,
            ssh=config.ssh, audit=config.audit,
        ))  # fmt: skip
        self.assertEqual(config.ssh.listen, ("tcp:3023",))
        self.assertEqual(config.ssh.public, ())
        self.assertEqual(config.ssh.authorized_keys, state / "authorized_keys")
        self.assertEqual(config.web.listen, ("tcp:3080:interface=127.0.0.1",))
        self.assertEqual(config.registry.url, "sqlite:registry.db")
        self.assertEqual((config.peer.listen, config.peer.advertise), ((), ()))
        self.assertEqual((config.tunnel.heartbeat, config.tunnel.missed), (5.0, 3))
        self.assertEqual(config.limits.login_grace, 20.0)
        self.assertEqual(config.limits.unauthenticated, 100)
        self.assertEqual(config.limits.unauthenticated_per_source, 10)
        self.assertTrue(config.limits.penalties)
        self.assertEqual(
            list(map(str, config.limits.penalties_exempt)), ["127.0.0.0/8", "::1/128"]
        )
        self.assertEqual(config.ssh.proxy_protocol_from, ())
        self.assertEqual(config.limits.channels_per_connection, 1000)
        self.assertEqual(config.drain.timeout, 30.0)
        self.assertEqual(list(config.local.allow), [])
        self.assertEqual(config.audit.path, state / "audit.jsonl")
        self.assertEqual(config.allow, ())
        self.assertFalse(config.close_on_change)
        self.assertFalse(config.limits.sessions_outlive_certificates)
        self.assertEqual(config.revocation.krl, ())

    def test_every_key_is_read(self) -> None:
        """Each key of docs/operations.md arrives in its field."""
        config = load_proxy(self.write(PROXY))
        self.assertEqual((config.cluster, config.name), ("a", "proxy-1"))
        self.assertEqual(config.ssh.listen, ("tcp:3023", "unix:/run/rtunnel/ssh"))
        self.assertEqual(
            config.ssh.public,
            (
                Address("lb.example.com", 3023),
                Address("lb.example.com", 443, tls=True),
            ),
        )
        self.assertEqual(config.ssh.advertise, (Address("2001:db8::1", 2022),))
        self.assertEqual(config.web.listen, ())
        self.assertEqual(config.registry.url, "sqlite:/var/lib/rtunnel/registry.db")
        self.assertEqual(config.peer.listen, ("tcp:3024",))
        self.assertEqual(config.peer.advertise, (Address("10.0.0.1", 3024),))
        self.assertEqual(config.tunnel, TunnelConfig(heartbeat=2.5, missed=4))
        self.assertEqual(config.limits.login_grace, 10.0)
        self.assertEqual(config.limits.unauthenticated, 50)
        self.assertEqual(config.limits.unauthenticated_per_source, 5)
        self.assertFalse(config.limits.penalties)
        self.assertEqual(
            list(map(str, config.limits.penalties_exempt)),
            ["10.0.0.0/8", "2001:db8::1/128"],
        )
        self.assertEqual(config.limits.channels_per_connection, 20)
        self.assertEqual(config.drain.timeout, 0.0)
        self.assertEqual(list(config.local.allow), ["*.lan:22"])
        self.assertEqual(
            config.allow,
            (
                AllowRule.parse(
                    ["ops", "team-*"],
                    ["b"],
                    ["*:22", "10.0.0.0/8:8000-8100"],
                    ["mon-fri 08:00-18:00", "sat 22:00-06:00 Europe/Berlin"],
                ),
                AllowRule.parse(["*"], ["*"], []),
            ),
        )
        self.assertTrue(config.close_on_change)
        self.assertTrue(config.limits.sessions_outlive_certificates)

    def test_state_is_relative_to_the_file_and_the_rest_to_state(self) -> None:
        """Wherever the process runs, the paths are the same; absolute ones stay."""
        self.write(PROXY)
        here = os.getcwd()
        self.addCleanup(os.chdir, here)
        os.chdir(self.directory)
        config = load_proxy("some.toml")
        os.chdir(here)
        self.assertEqual(config.path, self.directory / "some.toml")
        self.assertEqual(config.state, self.directory / "var")
        self.assertEqual(config.audit.path, self.directory / "var/log/audit.jsonl")
        self.assertEqual(config.ssh.authorized_keys, Path("/etc/rtunnel/people"))
        self.assertEqual(
            config.revocation.krl,
            (self.directory / "var/revoked.krl", Path("/etc/ssh/revoked")),
        )

    def test_whole_seconds_become_floats(self) -> None:
        """The one coercion there is."""
        config = load_proxy(self.write('cluster = "a"\n[tunnel]\nheartbeat = 7'))
        self.assertIsInstance(config.tunnel.heartbeat, float)


class AgentFileTests(LoadingTestCase):
    """``agent.toml`` as it should be."""

    def test_cluster_and_proxies_are_enough(self) -> None:
        """Every other key has the default of docs/operations.md."""
        path = self.write('cluster = "b"\nproxies = ["lb.example.com"]')
        config = load_agent(path)
        self.assertEqual(
            config,
            AgentConfig(
                path=path,
                cluster="b",
                state=self.directory,
                proxies=(Address("lb.example.com", 3023),),
                resolve=config.resolve,
            ),
        )
        self.assertEqual(config.tunnels, "all")
        self.assertEqual(list(config.allow), ["localhost:22"])
        self.assertEqual(config.resolve, {})
        self.assertFalse(config.close_on_change)
        self.assertEqual((config.tunnel.heartbeat, config.tunnel.missed), (5.0, 3))

    def test_every_key_is_read(self) -> None:
        """Each key of docs/operations.md arrives in its field, names in lower case."""
        config = load_agent(self.write(AGENT))
        self.assertEqual(config.cluster, "b")
        self.assertEqual(config.state, Path("/var/lib/rtunnel"))
        self.assertEqual(
            config.proxies,
            (Address("lb.example.com"), Address("lb.example.com", 443, tls=True)),
        )
        self.assertEqual(config.tunnels, 2)
        self.assertEqual(list(config.allow), ["localhost:22", "10.0.0.0/8:*"])
        self.assertEqual(config.resolve, {"web1.lan": "10.0.0.5", "db": "10.0.0.6"})
        self.assertTrue(config.close_on_change)
        self.assertEqual(config.tunnel, TunnelConfig(heartbeat=1.0, missed=3))

    def test_resolve_table_cannot_be_changed(self) -> None:
        """Config values are frozen, this mapping too."""
        config = load_agent(self.write(AGENT))

        def change() -> None:
            config.resolve["web1.lan"] = "10.0.0.7"  # type: ignore[index]

        self.assertRaises(TypeError, change)


KEYS = (
    st.sampled_from([*key_names(ProxyConfig), *key_names(AgentConfig)])
    | st.sampled_from([*key_names(SshConfig), *key_names(LimitsConfig)])
    | st.sampled_from(["url", "heartbeat", "missed", "timeout", "path"])
    | st.sampled_from(["users", "clusters", "targets"])
    | st.text(max_size=5)
)


TEXTS = (
    st.sampled_from(
        ["a", "tcp:1", "lb:3023", "*:22", "*", "all", "memory:", ".", "::1", "10.0.0.1"]
    )
    | st.text(max_size=8)
)  # fmt: skip


VALUES = st.recursive(
    st.booleans()
    | st.integers()
    | st.floats()
    | TEXTS
    | st.datetimes()
    | st.dates()
    | st.times(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4)
    ),
    max_leaves=10,
)


DOCUMENTS = st.dictionaries(KEYS, VALUES, max_size=6)


class AnyInputTests(LoadingTestCase):
    """Nothing but ConfigError comes out of whatever a file may hold."""

    @settings(deadline=None, max_examples=150)
    @given(DOCUMENTS, st.booleans())
    def test_any_toml_is_a_config_or_a_config_error(
        self, data: dict[str, Any], agent: bool
    ) -> None:
        """Data of any shape under the keys we know and others."""
        path = self.write(render_document(data, {}))
        try:
            config = load_agent(path) if agent else load_proxy(path)
        except ConfigError as error:
            for problem in error.problems:
                self.assertTrue(problem.isprintable(), problem)
                self.assertTrue(problem.startswith(str(path)), problem)
        else:
            self.assertEqual(config.cluster, data["cluster"])

    @settings(deadline=None, max_examples=100)
    @given(st.binary(max_size=200))
    @example(b"\xef\xbb\xbfcluster = 'a'")
    @example(b"x = 2020-13-45")
    @example(b"x = 1" + b"0" * 5000)
    def test_any_bytes_are_a_config_or_a_config_error(self, content: bytes) -> None:
        """Bytes that need not even be TOML."""
        path = self.write(content)
        try:
            load_proxy(path)
        except ConfigError as error:
            self.assertTrue(error.problems)

    @settings(deadline=None, max_examples=100)
    @given(st.integers(0, len(PROXY)), st.integers(0, 20), st.text(max_size=6))
    def test_any_edit_leaves_a_config_or_a_config_error(
        self, start: int, length: int, text: str
    ) -> None:
        """A good file with something cut out and something else put in."""
        path = self.write(PROXY[:start] + text + PROXY[start + length :])
        try:
            load_proxy(path)
        except ConfigError as error:
            self.assertTrue(error.problems)
