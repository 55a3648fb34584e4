"""Tests for :mod:`rtunnel.config.loading`: files that are wrong."""

from __future__ import annotations

import re
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from rtunnel.config import AgentConfig, ProxyConfig, load_agent, load_proxy
from rtunnel.config.loading import MAX_SIZE
from rtunnel.config.structuring import MAX_SHOWN, Problems, structure
from rtunnel.errors import ConfigError
from tests.config.files import PROXY, LoadingTestCase


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
