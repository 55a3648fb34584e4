"""Tests for :mod:`rtunnel.key_making`."""

from __future__ import annotations

from typing import cast

from twisted.internet import reactor as global_reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorThreads
from twisted.internet.task import LoopingCall
from twisted.trial.unittest import TestCase

from rtunnel.key_making import key_maker
from rtunnel.wire.keys import ECDSA_P256, ED25519, RSA
from tests.threads import hold_threads

reactor = cast(IReactorThreads, global_reactor)


class KeyMakerTests(TestCase):
    """:func:`key_maker`, with the threads of the reactor that the tests run in."""

    async def test_keys_of_every_type_are_made(self) -> None:
        """Each of the type that was asked for, and another one each time."""
        make_key = key_maker(reactor)
        for key_type in (ED25519, ECDSA_P256, RSA):
            first, second = await make_key(key_type), await make_key(key_type)
            self.assertEqual(first.public.algorithm, key_type)
            self.assertNotEqual(first.public, second.public)

    async def test_type_that_nobody_makes_is_refused(self) -> None:
        """With the error of :meth:`PrivateKey.generate`."""
        with self.assertRaises(ValueError):
            await key_maker(reactor)(b"ssh-dss")

    async def test_the_reactor_goes_on_meanwhile(self) -> None:
        """It turns many times for each key."""
        turns: list[None] = []
        turning = LoopingCall(turns.append, None)
        turning.start(0)
        self.addCleanup(turning.stop)
        for _ in range(4):
            await key_maker(reactor)(RSA)
        self.assertGreater(len(turns), 40)

    async def test_cancelling_does_not_wait_for_the_key(self) -> None:
        """Though no thread stops half-way."""
        release = hold_threads(self, reactor)
        making = key_maker(reactor)(ED25519)
        assert isinstance(making, Deferred)
        self.assertNoResult(making)
        making.cancel()
        self.failureResultOf(making, CancelledError)
        release()
