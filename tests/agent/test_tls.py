"""Files of TLS authorities. What TLS does is in ``test_connect.py``."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from rtunnel.agent.tls import load_authorities
from rtunnel.errors import ConfigError
from tests.interop.tls import TlsAuthority


class LoadAuthoritiesTests(SynchronousTestCase):
    """:func:`load_authorities`."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir()

    def file(self, name: str, content: bytes) -> Path:
        path = self.directory / name
        path.write_bytes(content)
        return path

    def test_no_file_is_the_system(self) -> None:
        """As Twisted understands None."""
        self.assertIsNone(load_authorities([]))

    def test_files_with_several_certificates(self) -> None:
        """And with text around them, as operating systems have them."""
        pems = [TlsAuthority(name).pem for name in ("one", "two", "three")]
        both = self.file("both", b"# one\n" + pems[0] + b"\n# two\n" + pems[1])
        self.assertIsNotNone(load_authorities([both, self.file("three", pems[2])]))

    def test_every_file_that_cannot_be_used_is_named(self) -> None:
        """With what is wrong with it."""
        spoilt = TlsAuthority("x").pem.replace(b"MII", b"AAA", 1)
        paths = [
            self.directory / "absent",
            self.file("empty", b""),
            self.file("spoilt", spoilt),
        ]
        error = self.assertRaises(ConfigError, load_authorities, paths)
        for path, problem, words in zip(
            paths,
            error.problems,
            ("No such file", "no PEM", "cannot be read"),
            strict=True,
        ):
            self.assertIn(str(path), problem)
            self.assertIn(words, problem)
