"""Config files written: :mod:`rtunnel.config.writing`."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.config import (
    Address,
    AgentConfig,
    ProxyConfig,
    agent_toml,
    load_agent,
    load_proxy,
    proxy_toml,
)
from rtunnel.config.structuring import structure
from rtunnel.config.toml_text import render_value
from rtunnel.errors import ConfigError

PROXY: dict[str, Any] = {
    "cluster": "a",
    "name": "proxy-1",
    "ssh": {"public": ["lb.example.com:3023"]},
}
AGENT: dict[str, Any] = {"cluster": "b", "proxies": ["lb.example.com:3023"]}

PROXY_FILE = """\
cluster = "a"
name = "proxy-1"                 # for people; default: the host name
state = "."                      # relative to this file: keys, certificates, registry, admin.sock
close_on_change = false          # close what rules, authorized_keys or authorities allow no longer; reloaded on SIGHUP

[ssh]
listen = ["tcp:3023"]            # agents and clients; Twisted server endpoint strings, so tcp:, unix:, systemd:, haproxy: ...
public = ["lb.example.com:3023"] # what agents and clients are told to use
advertise = []                   # where agents can reach this very proxy, if they can
authorized_keys = "authorized_keys" # relative to state, as every path below
proxy_protocol_from = []         # addresses or networks of balancers that begin each connection with a PROXY header (send-proxy, send-proxy-v2), and have to
ciphers = []                     # best first; default: aes128-gcm@openssh.com, aes256-gcm@openssh.com, aes128-ctr, aes256-ctr; chacha20-poly1305@openssh.com only if it is listed
macs = []                        # beside aes*-ctr; default: hmac-sha2-256-etm@openssh.com, hmac-sha2-512-etm@openssh.com
key_exchanges = []               # default: mlkem768x25519-sha256, curve25519-sha256, curve25519-sha256@libssh.org
host_key_algorithms = []         # of proxies; default: certificates, then plain keys, of ssh-ed25519, ecdsa-sha2-nistp256, rsa-sha2-512, rsa-sha2-256
user_key_algorithms = []         # to log in with; default: the same, and FIDO keys (sk-)

[web]
listen = ["tcp:3080:interface=127.0.0.1"] # /healthz, /readyz

[registry]
url = "sqlite:registry.db"       # "sqlite:PATH", or "memory:" for a proxy that is alone

[peer]
listen = []                      # other proxies; default: the ssh listener
advertise = []                   # what other proxies dial

[tunnel]
heartbeat = 5                    # seconds between heartbeats
missed = 3                       # missed before a tunnel is dead

[limits]
login_grace = 20                 # seconds from accept to authenticated
unauthenticated = 100            # connections, all sources
unauthenticated_per_source = 10  # connections
penalties = true                 # refuse sources for a while that come in vain too often
penalties_exempt = ["127.0.0.0/8", "::1/128"] # never these; list a balancer that sends no PROXY header
channels_per_connection = 1000   # open at the same time
sessions_outlive_certificates = false # let open connections finish when the certificate expires; new ones are refused all the same

[drain]
timeout = 30                     # seconds that open channels get after SIGTERM
grace = 0                        # seconds of these in which new ones are taken; /readyz says 503

[local]
allow = []                       # targets of this proxy's own cluster that it may dial itself, "host:port", "*.lan:22", "10.0.0.0/8:22"

[certificates]
agent_ttl = 86400                # seconds that agents' certificates are valid which this proxy signs by itself; renewed at two thirds of it
proxy_ttl = 604800               # likewise of proxies

[revocation]
krl = []                         # OpenSSH key revocation lists (ssh-keygen -k), read again when they change

[audit]
path = "audit.jsonl"             # JSON lines
required = false                 # take nobody while it cannot be written
refused_logins_per_second = 10   # lines about those who did not get in; one line tells how many more there were
refused_logins_burst = 100       # the same at once

[[allow]]                        # who may reach what; no rule, no access; reloaded on SIGHUP
users = ["*"]                    # certificate principals, or the names given in authorized_keys
clusters = ["*"]
targets = ["*:22"]
times = []                       # when, as "mon-fri 08:00-18:00", in UTC; default: always
"""  # noqa: E501

AGENT_FILE = """\
cluster = "b"
state = "."                      # relative to this file: key, certificate, CA
proxies = ["lb.example.com:3023"] # one or more addresses, all A and AAAA records of each; "tls:host:443" is SSH inside TLS
tls_authorities = []             # files of PEM certificates that vouch for tls: addresses; default: the system's
tunnels = "all"                  # or a number: hold that many, let the proxies pass connections on
allow = ["localhost:22"]         # what may be reached through this agent; the last word
resolve = {}                     # names: {"web1" = "10.0.0.5"}
close_on_change = false          # close connections that allow lists no longer; reloaded on SIGHUP

[ssh]
ciphers = []                     # best first; default: aes128-gcm@openssh.com, aes256-gcm@openssh.com, aes128-ctr, aes256-ctr; chacha20-poly1305@openssh.com only if it is listed
macs = []                        # beside aes*-ctr; default: hmac-sha2-256-etm@openssh.com, hmac-sha2-512-etm@openssh.com
key_exchanges = []               # default: mlkem768x25519-sha256, curve25519-sha256, curve25519-sha256@libssh.org
host_key_algorithms = []         # of proxies; default: certificates, then plain keys, of ssh-ed25519, rsa-sha2-512, rsa-sha2-256; ecdsa-sha2-nistp256 only if it is listed
user_key_algorithms = []         # to log in with; default: whatever the agent's key is

[tunnel]
heartbeat = 5                    # seconds between heartbeats
missed = 3                       # missed before a tunnel is dead

[renewal]
fresh_key = false                # make a new key for each new certificate
"""  # noqa: E501


class WrittenFileTests(SynchronousTestCase):
    """The files that ``init``, ``sign`` and ``join`` write."""

    def load(self, text: str) -> ProxyConfig:
        """Load the text of a ``proxy.toml``."""
        path = Path(self.mktemp())
        path.write_text(text, encoding="utf-8")
        return load_proxy(path)

    def test_proxy_file_has_every_key_and_says_what_it_is_for(self) -> None:
        """Every key of docs/operations.md is in it, and a first rule."""
        self.assertEqual(proxy_toml(PROXY), PROXY_FILE)

    def test_agent_file_has_every_key_and_says_what_it_is_for(self) -> None:
        """Every key of docs/operations.md is in it."""
        self.assertEqual(agent_toml(AGENT), AGENT_FILE)

    def test_written_defaults_are_the_defaults(self) -> None:
        """A file of nothing but the required keys means the same."""
        written = self.load(proxy_toml({"cluster": "a"}))
        path = written.path
        path.write_text('cluster = "a"', encoding="utf-8")
        short = load_proxy(path)
        self.assertEqual([list(rule.targets) for rule in written.allow], [["*:22"]])
        self.assertEqual(written, attrs.evolve(short, allow=written.allow))

    def test_values_may_be_values_of_a_loaded_config(self) -> None:
        """Another proxy's file starts from this one's values."""
        text = proxy_toml(
            {
                "cluster": "a",
                "state": Path("/srv/x"),
                "ssh": {"public": (Address("lb"), Address("::1", 22))},
            }
        )
        data = tomllib.loads(text)
        self.assertEqual(data["ssh"]["public"], ["lb:3023", "[::1]:22"])
        self.assertEqual(data["state"], "/srv/x")

    def test_bad_value_names_the_file_and_key(self) -> None:
        """What the caller hands in is checked like a file."""
        error = self.assertRaises(ConfigError, proxy_toml, {"cluster": "A"})
        [problem] = error.problems
        self.assertTrue(problem.startswith('proxy.toml: cluster: found "A", expected'))

    def test_agent_without_proxies_is_refused(self) -> None:
        """A required key has no default to write."""
        error = self.assertRaises(ConfigError, agent_toml, {"cluster": "b"})
        self.assertEqual(
            error.problems,
            ("agent.toml: proxies: found nothing, expected a list of at least one",),
        )


class OverrideTests(SynchronousTestCase):
    """``--set KEY=VALUE``."""

    def proxy(self, *overrides: str) -> dict[str, Any]:
        """The data of a ``proxy.toml`` written with these overrides."""
        return tomllib.loads(proxy_toml(PROXY, overrides))

    def refusals(self, *overrides: str) -> tuple[str, ...]:
        """Why these overrides cannot be written."""
        return self.assertRaises(ConfigError, proxy_toml, PROXY, overrides).problems  # type: ignore[no-any-return]

    def test_one_key_changes_and_the_rest_keeps_value_and_comment(self) -> None:
        """One line of the file is different."""
        text = proxy_toml(PROXY, ['ssh.listen=["tcp:2022:interface=127.0.0.1"]'])
        changed = set(text.splitlines()) ^ set(PROXY_FILE.splitlines())
        self.assertEqual({line.split(" = ")[0] for line in changed}, {"listen"})
        self.assertEqual(
            tomllib.loads(text)["ssh"]["listen"], ["tcp:2022:interface=127.0.0.1"]
        )

    def test_rules_are_replaced_as_a_whole(self) -> None:
        """An array of inline tables becomes ``[[allow]]`` tables."""
        rule = '{users=["ops"], clusters=["b"], targets=["web1:22"]}'
        text = proxy_toml(PROXY, [f"allow=[{rule}, {rule}]"])
        self.assertEqual(text.count("[[allow]]"), 2)
        self.assertEqual(tomllib.loads(text)["allow"][1]["users"], ["ops"])

    def test_no_rule_at_all_can_be_written(self) -> None:
        """Default deny, said openly."""
        text = proxy_toml(PROXY, ["allow=[]"])
        self.assertEqual(tomllib.loads(text)["allow"], [])
        self.assertIn("allow = []                       # who may reach what", text)

    def test_table_is_laid_over_key_by_key(self) -> None:
        """What is not named keeps what it has, and later arguments win."""
        data = self.proxy(
            'ssh={listen=["tcp:1"], advertise=["x:1"]}', 'ssh.listen=["tcp:2"]'
        )
        self.assertEqual(data["ssh"]["listen"], ["tcp:2"])
        self.assertEqual(data["ssh"]["advertise"], ["x:1"])
        self.assertEqual(data["ssh"]["public"], ["lb.example.com:3023"])

    def test_resolve_entries_add_up(self) -> None:
        """Quoted keys work as in TOML, and the table stays on one line."""
        text = agent_toml(
            AGENT, ['resolve.web1="10.0.0.5"', 'resolve."db.lan"="10.0.0.6"']
        )
        self.assertIn('resolve = { web1 = "10.0.0.5", "db.lan" = "10.0.0.6" }', text)

    def test_wrong_value_names_the_argument(self) -> None:
        """And the key, what was found, and what was expected."""
        self.assertEqual(
            self.refusals("limits.unauthenticated=0"),
            (
                "--set 'limits.unauthenticated=0': limits.unauthenticated: found 0, "
                "expected a whole number from 1 to 1000000",
            ),
        )

    def test_each_problem_names_the_argument_that_brought_it(self) -> None:
        """The last that touched the key, when there are several."""
        problems = self.refusals(
            "drain.timeout=-1", "ssh.lisen=[]", "drain.timeout=-2", "web=5"
        )
        self.assertEqual(
            sorted(problem.split(": found")[0] for problem in problems),
            [
                "--set 'drain.timeout=-2': drain.timeout",
                "--set 'ssh.lisen=[]': ssh.lisen",
                "--set 'web=5': web",
            ],
        )
        self.assertIn("did you mean", str(problems))

    def test_text_without_quotes_is_told_about_quotes(self) -> None:
        """The likeliest mistake; every argument that is no TOML is reported."""
        problems = self.refusals("name=proxy-1", "cluster", "", "=1")
        self.assertEqual(len(problems), 4)
        self.assertTrue(problems[0].startswith("--set 'name=proxy-1': is not KEY="))
        self.assertIn("a string needs quotes", problems[0])

    @settings(deadline=None, max_examples=100)
    @given(st.text(max_size=30) | st.sampled_from(["ssh", "allow"]).map("{}=1".format))
    def test_any_argument_is_written_or_refused(self, argument: str) -> None:
        """Nothing but ConfigError, and what is written can be loaded."""
        try:
            text = proxy_toml(PROXY, [argument])
        except ConfigError as error:
            self.assertTrue(str(error).replace("\n", "").isprintable())
        else:
            structure(tomllib.loads(text), ProxyConfig)


NAMES = st.from_regex(r"[a-z]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
PORTS = st.integers(1, 65535)
ADDRESSES = st.builds("{}:{}".format, NAMES, PORTS)
TARGETS = st.builds("{}:{}".format, NAMES | st.just("*"), PORTS | st.just("*"))
PROXIES = st.fixed_dictionaries(
    {"cluster": NAMES},
    optional={
        "name": NAMES,
        "state": st.text(st.characters(categories=["L", "N", "Z"]), min_size=1),
        "ssh": st.fixed_dictionaries(
            {},
            optional={
                "listen": st.lists(PORTS.map("tcp:{}".format), min_size=1, max_size=3),
                "public": st.lists(ADDRESSES, max_size=3),
            },
        ),
        "tunnel": st.fixed_dictionaries(
            {},
            optional={
                "heartbeat": st.floats(0.01, 1000) | st.integers(1, 1000),
                "missed": st.integers(1, 100),
            },
        ),
        "local": st.fixed_dictionaries({"allow": st.lists(TARGETS, max_size=3)}),
        "allow": st.lists(
            st.fixed_dictionaries(
                {
                    "users": st.lists(NAMES, max_size=2),
                    "clusters": st.lists(NAMES, max_size=2),
                    "targets": st.lists(TARGETS, max_size=2),
                },
                optional={
                    "times": st.lists(
                        st.sampled_from(["mon-fri", "sat 22:00-06:00 Europe/Berlin"])
                    )
                },
            ),
            max_size=3,
        ),
    },
)
AGENTS = st.fixed_dictionaries(
    {"cluster": NAMES, "proxies": st.lists(ADDRESSES, min_size=1, max_size=3)},
    optional={
        "tunnels": st.just("all") | st.integers(1, 9),
        "allow": st.lists(TARGETS, max_size=3),
        "resolve": st.dictionaries(NAMES, st.ip_addresses().map(str), max_size=3),
    },
)


class RoundTripTests(SynchronousTestCase):
    """What is written means what was asked for."""

    @settings(deadline=None, max_examples=100)
    @given(PROXIES, st.booleans())
    def test_proxy_file_loads_as_what_was_asked_for(
        self, data: dict[str, Any], by_override: bool
    ) -> None:
        """Through values or through ``--set``."""
        wanted = structure({"name": "p", "allow": [], **data}, ProxyConfig)
        base = {"name": "p", "allow": [], "cluster": "x"}
        if by_override:
            overrides = [f"{key}={render_value(data[key])}" for key in data]
            text = proxy_toml(base, overrides)
        else:
            text = proxy_toml({**base, **data})
        self.assertEqual(structure(tomllib.loads(text), ProxyConfig), wanted)

    @settings(deadline=None, max_examples=100)
    @given(AGENTS)
    def test_agent_file_loads_as_what_was_asked_for(self, data: dict[str, Any]) -> None:
        """The same for an agent, from the file itself."""
        path = Path(self.mktemp())
        path.write_text(agent_toml(data), encoding="utf-8")
        wanted = structure(data, AgentConfig)
        loaded = load_agent(path)
        for name in ("cluster", "proxies", "tunnels", "allow", "resolve", "tunnel"):
            self.assertEqual(getattr(loaded, name), getattr(wanted, name))
