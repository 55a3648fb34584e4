"""Config files read: :mod:`rtunnel.config.loading`."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

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
from rtunnel.config.loading import MAX_SIZE
from rtunnel.config.structuring import MAX_SHOWN, Problems, key_names, structure
from rtunnel.config.toml_text import render_document
from rtunnel.config.values import host_name
from rtunnel.errors import ConfigError
from rtunnel.trust.policy import AllowRule

PROXY = """
cluster = "a"
name = "proxy-1"
state = "var"
close_on_change = true

[ssh]
listen = ["tcp:3023", "unix:/run/rtunnel/ssh"]
public = ["lb.example.com", "tls:lb.example.com:443"]
advertise = ["[2001:DB8::1]:2022"]
authorized_keys = "/etc/rtunnel/people"

[web]
listen = []

[registry]
url = "sqlite:/var/lib/rtunnel/registry.db"

[peer]
listen = ["tcp:3024"]
advertise = ["10.0.0.1:3024"]

[tunnel]
heartbeat = 2.5
missed = 4

[limits]
login_grace = 10
unauthenticated = 50
unauthenticated_per_source = 5
penalties = false
penalties_exempt = ["10.0.0.0/8", "2001:db8::1"]
channels_per_connection = 20
sessions_outlive_certificates = true

[drain]
timeout = 0

[local]
allow = ["*.lan:22"]

[revocation]
krl = ["revoked.krl", "/etc/ssh/revoked"]

[audit]
path = "log/audit.jsonl"

[[allow]]
users = ["ops", "team-*"]
clusters = ["b"]
targets = ["*:22", "10.0.0.0/8:8000-8100"]
times = ["mon-fri 08:00-18:00", "sat 22:00-06:00 Europe/Berlin"]

[[allow]]
users = ["*"]
clusters = ["*"]
targets = []
"""

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


class LoadingTestCase(SynchronousTestCase):
    """A directory to put config files in."""

    def setUp(self) -> None:
        """Make the directory."""
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()

    def write(self, content: str | bytes, name: str = "some.toml") -> Path:
        """Write a file and return where it is."""
        path = self.directory / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def problems(self, content: str | bytes, agent: bool = False) -> list[str]:
        """Load a file that is wrong; its problems, without the name of the file."""
        path = self.write(content)
        load = load_agent if agent else load_proxy
        error = self.assertRaises(ConfigError, load, path)
        for problem in error.problems:
            self.assertTrue(problem.startswith(f"{path}: "), problem)
            self.assertTrue(problem.isprintable(), problem)
        self.assertEqual(str(error), "\n".join(error.problems))
        return [problem.removeprefix(f"{path}: ") for problem in error.problems]


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


class WrongFileTests(LoadingTestCase):
    """What cannot be a config: always a ConfigError that says what and where."""

    def test_all_problems_are_given_at_once(self) -> None:
        """Five mistakes, five lines, each with key, what was found and expected."""
        self.assertEqual(
            self.problems(
                'cluster = 5\n[ssh]\nlisten = ["tcp:1", ""]\n'
                "[limits]\nlogin_grase = 5\nunauthenticated = 0\n"
                '[[allow]]\nusers = ["ops"]\nclusters = ["*"]\ntargets = ["db"]\n'
            ),
            [
                "cluster: found 5, expected a cluster name",
                'ssh.listen[1]: found "", expected a Twisted server endpoint string '
                'such as "tcp:3023"',
                "limits.unauthenticated: found 0, expected a whole number from 1 to "
                "1000000",
                "limits.login_grase: found an unknown key, expected one of "
                "login_grace, unauthenticated, unauthenticated_per_source, "
                "penalties, penalties_exempt, channels_per_connection, "
                "sessions_outlive_certificates; did you mean login_grace?",
                'allow[0].targets[0]: found "db", expected a target pattern such as '
                '"host:22"; \'db\' is none of "host:port", "*.lan:22", '
                '"10.0.0.0/8:22", "[fd00::/8]:22", "*:22", "host:8000-8100" or '
                '"host:*"',
            ],
        )

    def test_missing_keys_say_what_they_need(self) -> None:
        """An empty agent.toml lacks two keys."""
        self.assertEqual(
            self.problems("", agent=True),
            [
                "cluster: found nothing, expected a cluster name",
                "proxies: found nothing, expected a list of at least one",
            ],
        )

    def test_key_of_another_table_is_suggested_with_its_table(self) -> None:
        """``listen`` at the top is taken for one of the three that exist."""
        [problem] = self.problems('cluster = "a"\nlisten = ["tcp:1"]')
        self.assertTrue(problem.startswith("listen: found an unknown key, expected"))
        self.assertTrue(
            problem.endswith("did you mean ssh.listen or web.listen or peer.listen?")
        )

    def test_key_like_nothing_gets_no_suggestion(self) -> None:
        """The keys there are must do."""
        [problem] = self.problems('cluster = "a"\n[drain]\nxyzzy = 1')
        self.assertEqual(
            problem, "drain.xyzzy: found an unknown key, expected one of timeout, grace"
        )

    def test_location_of_the_file_is_no_key(self) -> None:
        """``path`` is a field of the values, not of the file."""
        [problem] = self.problems('cluster = "a"\npath = "x"')
        self.assertIn("path: found an unknown key", problem)

    def test_bad_toml_names_the_line(self) -> None:
        """The third line has no value."""
        [problem] = self.problems('cluster = "a"\n[ssh]\nlisten = \n')
        self.assertIn("not TOML", problem)
        self.assertIn("line 3", problem)

    def test_bad_utf8_names_the_line(self) -> None:
        """TOML is UTF-8."""
        self.assertEqual(
            self.problems(b'cluster = "a"\nname = "\xff"'),
            ["is not UTF-8 (at line 2)"],
        )

    def test_byte_order_mark_is_skipped(self) -> None:
        """Some editors write one, and lines that end as on Windows."""
        path = self.directory / "proxy.toml"
        path.write_bytes(b"\xef\xbb\xbf" + PROXY.replace("\n", "\r\n").encode())
        self.assertEqual(load_proxy(path).name, "proxy-1")

    def test_port_that_is_none_is_named(self) -> None:
        """In words of ours, not the interpreter's."""
        for text in (
            "tcp:x",
            "tcp6::interface=h",
            "ssl:port=x:privateKey=k",
            "tcp:70000",
        ):
            (problem,) = self.problems(f'cluster = "a"\n[ssh]\nlisten = ["{text}"]\n')
            self.assertIn("is not a port (0 to 65535)", problem)
        for text in ("tcp:port=22", "tcp:interface=\\\\:\\\\:1:port=22", "tcp6:0"):
            content = f'cluster = "a"\n[ssh]\nlisten = ["{text}"]\n'
            self.assertEqual(len(load_proxy(self.write(content)).ssh.listen), 1)

    def test_file_of_the_other_kind_is_one_problem(self) -> None:
        """Not one for each key."""
        path = self.directory / "x.toml"
        path.write_text('cluster = "b"\nproxies = ["lb"]\n[renewal]\nfresh_key = 5')
        error = self.assertRaises(ConfigError, load_proxy, path)
        self.assertEqual(
            error.problems,
            (
                f"{path}: is the config file of an agent, not of a proxy; twistd "
                "rtunnel-agent runs it",
            ),
        )
        path.write_text(PROXY)
        error = self.assertRaises(ConfigError, load_agent, path)
        self.assertEqual(len(error.problems), 1)
        self.assertIn("twistd rtunnel-proxy runs it", str(error))

    def test_key_of_the_other_kind_is_an_unknown_key(self) -> None:
        """In a file that is else what it should be."""
        (problem,) = self.problems('cluster = "a"\nproxies = []\nname = "x"\n')
        self.assertTrue(problem.startswith("proxies: found an unknown key"), problem)

    def test_directory_of_the_other_kind_is_said_to_be_one(self) -> None:
        """The name was right, the place was wrong."""
        (self.directory / "agent.toml").touch()
        error = self.assertRaises(
            ConfigError, load_proxy, self.directory / "proxy.toml"
        )
        self.assertIn("so this is the directory of an agent", str(error))

    def test_missing_file_says_what_to_do(self) -> None:
        """Each kind of file has its verb."""
        path = self.directory / "none.toml"
        error = self.assertRaises(ConfigError, load_proxy, path)
        self.assertEqual(
            error.problems,
            (
                f"{path}: no such file; 'rtunnel init' writes one, and --state (with "
                "twistd: --config) says where it is",
            ),
        )
        error = self.assertRaises(ConfigError, load_agent, path)
        self.assertIn("'rtunnel join' writes one", str(error))

    def test_unreadable_file_says_why(self) -> None:
        """A directory is none, and a path with NUL is none either."""
        error = self.assertRaises(ConfigError, load_proxy, self.directory)
        self.assertIn("cannot be read: Is a directory", str(error))
        error = self.assertRaises(ConfigError, load_proxy, "nul\0")
        self.assertIn("cannot be read", str(error))

    def test_endless_file_is_refused(self) -> None:
        """The limit on the size of a file."""
        [problem] = self.problems(b"#" * (MAX_SIZE + 1))
        self.assertEqual(problem, f"is longer than {MAX_SIZE} bytes")

    def test_deep_nesting_is_refused(self) -> None:
        """The parser's recursion limit is a problem of the file."""
        [problem] = self.problems("cluster = " + "[" * 20000)
        self.assertTrue(re.search("nested|is not TOML", problem), problem)

    def test_long_values_are_cut(self) -> None:
        """A problem stays one readable line."""
        [problem] = self.problems(f'cluster = "{"A" * 5000}"')
        self.assertIn("A" * (MAX_SHOWN - 1) + "..., expected", problem)
        self.assertTrue(len(problem) < 600, len(problem))

    def test_control_characters_are_refused_and_shown_escaped(self) -> None:
        """Neither a log line nor a path gets a newline from the file."""
        problems = self.problems('cluster = "a"\nstate = "x\\ny"\n"k\\u001b" = 1')
        self.assertIn(
            'state: found "x\\ny", expected a path; it holds control characters',
            problems,
        )
        self.assertIn('"k\\u001b": found an unknown key', problems[1])


#: Key, and values that both files must refuse.
REFUSED_ALGORITHMS: dict[str, list[Any]] = {
    "ssh.ciphers": ["aes128-ctr", [1], [""], ["aes128-cbc"], ["aes128-ctr,aes256-ctr"]],
    "ssh.macs": [["hmac-sha1"], ["hmac-sha2-256"], {}],
    "ssh.key_exchanges": [["diffie-hellman-group14-sha256"], ["none"]],
    "ssh.host_key_algorithms": [["ssh-rsa"], ["sk-ssh-ed25519@openssh.com"]],
    "ssh.user_key_algorithms": [["ssh-rsa"], ["ssh-dss"], [2]],
}

#: The same for ``proxy.toml``.
REFUSED_BY_PROXY: dict[str, list[Any]] = {
    "cluster": ["", "A", "a.b", "-a", "a" * 64, 1, True, ["a"]],
    "name": ["", "a b", ".a", "a\n", 1, "ü"],
    "state": ["", 1, [], "a\0b"],
    "ssh": [1, "x", [], [{}]],
    "ssh.listen": [
        *("tcp:3023", [], [3023], ["3023"], ["tcp"], [""], {}, ["tcp:"], ["tcp:ssh"]),
        *(["tcp:65536"], ["nosuch:1"], ["tcp:1:colour=red"]),
    ],
    "ssh.public": [
        "lb:1",
        [""],
        ["lb:0"],
        ["lb:65536"],
        ["lb:"],
        [":3023"],
        ["::1"],
        ["[10.0.0.1]:1"],
        ["[::1%lo]:1"],
        ["http://lb"],
        ["127.1:1"],
        ["tls:"],
        [1],
    ],
    "ssh.authorized_keys": ["", 1],
    "ssh.proxy_protocol_from": [True, ["*"], ["10.0.0.0/33"], ["10.0.0.1/8"]],
    **REFUSED_ALGORITHMS,
    "registry.url": ["", "sqlite:", "memory", "redis:x", "etcd:x", 1],
    "tunnel.heartbeat": [0, -1, True, "5", float("inf"), float("nan"), 1e300, [5]],
    "tunnel.missed": [0, -1, 1.0, True, "3", 10**9],
    "limits.login_grace": [0, 10**400, False],
    "limits.unauthenticated": [0, 1.5],
    "limits.unauthenticated_per_source": [0],
    "limits.penalties": [0, 1, "true", []],
    "limits.penalties_exempt": ["::1", [""], ["lb"], ["10.0.0.1/8"], ["::1%lo"], [1]],
    "limits.channels_per_connection": [0],
    "limits.sessions_outlive_certificates": [0, "true"],
    "close_on_change": [1, "true", {}],
    "revocation.krl": ["revoked.krl", [""], [1], {}],
    "drain.timeout": [-1, -0.1, float("nan"), "30"],
    "drain.grace": [-1, "5"],
    "local.allow": ["*:22", ["10.0.0.1/8:22"], ["::1:22"], [22], ["a:0"], ["a:2-1"]],
    "audit.path": [""],
    "allow": [
        5,
        {},
        [5],
        [{}],
        [{"users": ["*"], "clusters": ["*"]}],
        [{"users": "*", "clusters": ["*"], "targets": []}],
        [{"users": ["a%b"], "clusters": ["*"], "targets": []}],
        [{"users": ["*"], "clusters": ["B"], "targets": []}],
        [{"users": ["*"], "clusters": ["*"], "targets": [], "user": 1}],
        [{"users": ["*"], "clusters": ["*"], "targets": [], "times": "mon"}],
        [{"users": ["*"], "clusters": ["*"], "targets": [], "times": ["Mon"]}],
        [{"users": ["*"], "clusters": ["*"], "targets": [], "times": ["mon 8-9"]}],
        [{"users": ["*"], "clusters": ["*"], "targets": [], "times": ["mon CEST2"]}],
    ],
}
REFUSED_BY_AGENT: dict[str, list[Any]] = {
    "proxies": [[], "lb:3023", [""], {}],
    "tunnels": [0, -1, "any", "2", True, 1.0],
    "close_on_change": [1, "true", {}],
    "ssh": [1, [], [{}]],
    **REFUSED_ALGORITHMS,
    "allow": ["*:22", [""], [{}]],
    "resolve": [
        [],
        "web1",
        {"web1": "web2"},
        {"10.0.0.5": "10.0.0.6"},
        {"127.1": "10.0.0.6"},
        {"": "10.0.0.6"},
        {"web1": "10.0.0"},
        {"web1": 5},
        {"web1": "10.0.0.1", "WEB1": "10.0.0.2"},
    ],
}


class RefusedValueTests(SynchronousTestCase):
    """Types are strict and ranges checked, key by key."""

    def refused(
        self, kind: type[ProxyConfig | AgentConfig], key: str, value: Any
    ) -> None:
        """Check that ``value`` is refused, and that the problem names ``key``."""
        data: dict[str, Any] = {"cluster": "a", "proxies": ["lb.example.com"]}
        if kind is ProxyConfig:
            del data["proxies"]
        table, _, name = key.rpartition(".")
        if table:
            data[table] = {name: value}
        else:
            data[name] = value
        try:
            config = structure(data, kind)
        except Problems as error:
            for problem in error.problems:
                line = problem.describe("f")
                self.assertTrue(line.startswith(f"f: {key}"), line)
                self.assertIn("found", line)
                self.assertIn("expected", line)
        else:
            self.fail(f"{key} = {value!r} was taken: {config}")

    def test_registry_that_is_not_there_yet_is_refused_with_what_to_do(self) -> None:
        """By the file, not only when a proxy starts."""
        data = {"cluster": "a", "registry": {"url": "etcd:http://10.0.0.1:2379"}}
        with self.assertRaises(Problems) as raised:
            structure(data, ProxyConfig)
        (problem,) = raised.exception.problems
        self.assertEqual(
            problem.describe("proxy.toml"),
            'proxy.toml: registry.url: found "etcd:http://10.0.0.1:2379", expected '
            '"sqlite:PATH", or "memory:" for a proxy that is alone; registries in etcd '
            "are not there yet: let all proxies of the cluster run on one machine, and "
            "share a file",
        )

    def test_values_that_a_proxy_refuses(self) -> None:
        """Wrong types, wrong ranges and malformed texts in ``proxy.toml``."""
        for key, values in REFUSED_BY_PROXY.items():
            for value in values:
                self.refused(ProxyConfig, key, value)

    def test_values_that_an_agent_refuses(self) -> None:
        """Wrong types, wrong ranges and malformed texts in ``agent.toml``."""
        for key, values in REFUSED_BY_AGENT.items():
            for value in values:
                self.refused(AgentConfig, key, value)


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
