"""Tests of :mod:`rtunnel.proxy.subsystem`."""

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import InvalidName
from rtunnel.naming import Target
from rtunnel.proxy.subsystem import parse_subsystem


class ParseSubsystemTests(SynchronousTestCase):
    """Reading ``proxy:host:port@cluster``."""

    def test_good_requests(self) -> None:
        """Every form that people type."""
        for name, target in {
            b"proxy:web1:2222@b": Target("web1", "b", 2222),
            b"proxy:web1@b": Target("web1", "b", 22),
            b"proxy:web1:0@b": Target("web1", "b", 22),
            b"proxy:@b": Target("", "b", 22),
            b"proxy:b": Target("", "b", 22),
            b"proxy:web1.b:22": Target("web1", "b", 22),
            b"proxy:10.0.0.5:22@b": Target("10.0.0.5", "b", 22),
            b"proxy:[fd00::1]:22@b": Target("fd00::1", "b", 22),
        }.items():
            self.assertEqual(parse_subsystem(name), target, name)

    def test_bad_requests(self) -> None:
        """Each is refused with a sentence, whatever it is."""
        for name in (
            b"",
            b"sftp",
            b"proxy:",
            b"proxy:@",
            b"proxy:web1:22@B.c",
            b"proxy:web1:99999@b",
            b"proxy:web1:x@b",
            b"proxy:we b1@b",
            b"proxy:web1\n@b",
            b"proxy:web1@b@c",
            b"proxy:\xff@b",
        ):
            self.assertRaises(InvalidName, parse_subsystem, name)

    @settings(deadline=None, max_examples=200)
    @given(st.binary(max_size=80))
    def test_any_bytes_give_a_target_or_a_refusal(self, rest: bytes) -> None:
        """Nothing else can come out."""
        try:
            self.assertIsInstance(parse_subsystem(b"proxy:" + rest), Target)
        except InvalidName as error:
            self.assertTrue(str(error).isprintable())
