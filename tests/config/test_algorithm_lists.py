"""Lists of algorithms in config files, and whether they leave a way to log in."""

from __future__ import annotations

from pathlib import Path

import attrs
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.config import AlgorithmLists, check_usable, load_agent, load_proxy
from rtunnel.errors import ConfigError
from rtunnel.wire.algorithms import DEFAULT_ALGORITHMS, Algorithms

LISTS = """
[ssh]
ciphers = ["chacha20-poly1305@openssh.com", "aes256-ctr"]
macs = ["hmac-sha2-512-etm@openssh.com"]
key_exchanges = ["curve25519-sha256"]
host_key_algorithms = ["rsa-sha2-512-cert-v01@openssh.com", "ssh-ed25519"]
user_key_algorithms = ["sk-ssh-ed25519@openssh.com"]
"""

ED25519_CERTIFICATE = b"ssh-ed25519-cert-v01@openssh.com"
RSA_CERTIFICATE = b"rsa-sha2-512-cert-v01@openssh.com"


class AlgorithmListsTests(SynchronousTestCase):
    """:class:`AlgorithmLists`, and both files that have them."""

    def setUp(self) -> None:
        """A file to write."""
        self.path = Path(self.mktemp()).absolute()

    def lists(self, text: str, *, agent: bool) -> AlgorithmLists:
        """``[ssh]`` of either file."""
        if agent:
            self.path.write_text('cluster = "b"\nproxies = ["lb"]\n' + text)
            return load_agent(self.path).ssh
        self.path.write_text('cluster = "a"\n' + text)
        return load_proxy(self.path).ssh

    def test_nothing_said_means_the_defaults(self) -> None:
        """And so does an empty list."""
        for agent in (False, True):
            for text in ("", "[ssh]\n", "[ssh]\nciphers = []\nmacs = []\n"):
                algorithms = self.lists(text, agent=agent).algorithms
                default = DEFAULT_ALGORITHMS
                if agent:
                    default = attrs.evolve(default, host_keys=algorithms.host_keys)
                self.assertEqual(algorithms, default)

    def test_agents_believe_ecdsa_only_when_told_to(self) -> None:
        """Proxies that have such a key show it; every other kind works unasked."""
        names = self.lists("", agent=True).algorithms.host_keys
        self.assertEqual(
            [name for name in DEFAULT_ALGORITHMS.host_keys if name not in names],
            [b"ecdsa-sha2-nistp256-cert-v01@openssh.com", b"ecdsa-sha2-nistp256"],
        )
        listed = '[ssh]\nhost_key_algorithms = ["ecdsa-sha2-nistp256"]\n'
        self.assertEqual(
            self.lists(listed, agent=True).algorithms.host_keys,
            (b"ecdsa-sha2-nistp256",),
        )

    def test_a_list_replaces_the_default_in_its_order(self) -> None:
        """In either file; ChaCha20 can be added that way."""
        for agent in (False, True):
            self.assertEqual(
                self.lists(LISTS, agent=agent).algorithms,
                Algorithms(
                    key_exchanges=(b"curve25519-sha256",),
                    host_keys=(RSA_CERTIFICATE, b"ssh-ed25519"),
                    user_keys=(b"sk-ssh-ed25519@openssh.com",),
                    ciphers=(b"chacha20-poly1305@openssh.com", b"aes256-ctr"),
                    macs=(b"hmac-sha2-512-etm@openssh.com",),
                ),
            )

    def test_the_error_lists_what_there_is(self) -> None:
        """And guesses what was meant."""
        text = '[ssh]\nmacs = ["hmac-sha2-256"]\nkey_exchanges = ["group14"]\n'
        for agent in (False, True):
            error = self.assertRaises(ConfigError, self.lists, text, agent=agent)
            self.assertEqual(
                error.problems,
                (
                    f'{self.path}: ssh.macs[0]: found "hmac-sha2-256", expected one of '
                    "hmac-sha2-256-etm@openssh.com, hmac-sha2-512-etm@openssh.com; did "
                    "you mean hmac-sha2-256-etm@openssh.com?",
                    f'{self.path}: ssh.key_exchanges[0]: found "group14", expected one '
                    "of mlkem768x25519-sha256, curve25519-sha256, "
                    "curve25519-sha256@libssh.org",
                ),
            )


class CheckUsableTests(SynchronousTestCase):
    """:func:`check_usable`."""

    def test_one_that_fits_is_enough(self) -> None:
        """In each list."""
        lists = AlgorithmLists(
            host_key_algorithms=("ssh-ed25519", "rsa-sha2-512-cert-v01@openssh.com"),
            user_key_algorithms=("ssh-ed25519-cert-v01@openssh.com",),
        )
        check_usable(
            Path("x.toml"), lists, host=[RSA_CERTIFICATE], user=[ED25519_CERTIFICATE]
        )

    def test_the_error_says_what_is_needed(self) -> None:
        """For each list that has nothing that fits."""
        lists = AlgorithmLists(
            host_key_algorithms=("ssh-ed25519",), user_key_algorithms=("ssh-ed25519",)
        )
        with self.assertRaises(ConfigError) as raised:
            check_usable(
                Path("x.toml"),
                lists,
                host=[RSA_CERTIFICATE],
                user=[ED25519_CERTIFICATE],
            )
        self.assertEqual(
            raised.exception.problems,
            tuple(
                f"x.toml: ssh.{key}_key_algorithms: found ssh-ed25519, expected one of "
                f"{needed} among them; tunnels need a certificate of a kind that is "
                "listed"
                for key, needed in (
                    ("host", RSA_CERTIFICATE.decode()),
                    ("user", ED25519_CERTIFICATE.decode()),
                )
            ),
        )
