"""Tests for :mod:`rtunnel.wire.passing_memory`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from rtunnel.wire.passing_memory import PassingMemory, with_surroundings


class WithSurroundingsTests(SynchronousTestCase):
    """:func:`with_surroundings`."""

    def test_it_is_the_same_memory(self) -> None:
        """With as much in front and behind as was asked for."""
        memory = PassingMemory(b"0123456789")
        frame = with_surroundings(memoryview(memory)[1:][2:5], 2, 4)
        assert frame is not None
        self.assertEqual(bytes(frame), b"123456789")
        frame[0] = ord("x")
        self.assertEqual(memory, b"0x23456789")

    def test_there_has_to_be_room(self) -> None:
        """On both sides, to the byte."""
        view = memoryview(PassingMemory(10))[3:6]
        self.assertIsNotNone(with_surroundings(view, 3, 4))
        self.assertIsNone(with_surroundings(view, 4, 4))
        self.assertIsNone(with_surroundings(view, 3, 5))

    def test_other_memory_has_no_surroundings(self) -> None:
        """What is around data in there belongs to somebody."""
        for data in (bytes(10), bytearray(10), memoryview(bytearray(10))[3:6]):
            self.assertIsNone(with_surroundings(data, 1, 1))

    def test_its_owner_may_let_go_of_it(self) -> None:
        """Asking leaves nothing behind that would keep it from being resized."""
        memory = PassingMemory(10)
        with memoryview(memory) as view, view[3:6] as data:
            frame = with_surroundings(data, 1, 1)
            assert frame is not None
            frame.release()
        memory += b"more"
