"""Processes that hold a record, and whether they still exist."""

from __future__ import annotations

import os
import subprocess
import sys

import attrs
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.registry.holder import Holder

#: A process that says who it is, and lives until its input ends.
LIVES = """
import sys
from rtunnel.registry.holder import Holder
h = Holder.of_this_process()
print(h.place, h.pid, h.began, h.nonce, flush=True)
sys.stdin.read()
"""


class HolderTests(SynchronousTestCase):
    """Alive, gone, or not to be seen."""

    def test_a_process_is_alive_until_it_ends(self) -> None:
        """As another process sees it."""
        with subprocess.Popen(
            [sys.executable, "-c", LIVES],
            env={"PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            place, pid, began, nonce = process.stdout.readline().split(" ")
            holder = Holder(place, int(pid), began, nonce.strip())
            self.assertEqual(holder.pid, process.pid)
            self.assertIs(holder.is_alive(), True)
        self.assertIs(holder.is_alive(), False)

    def test_two_holders_of_one_process_differ(self) -> None:
        """Two proxies may run in one process."""
        one, two = Holder.of_this_process(), Holder.of_this_process()
        self.assertNotEqual(one, two)
        self.assertEqual(attrs.evolve(one, nonce=two.nonce), two)
        self.assertIs(one.is_alive(), True)

    def test_a_process_id_that_was_given_again_is_another_process(self) -> None:
        """It began at another time."""
        us = Holder.of_this_process()
        if not us.began:
            self.skipTest("this system does not say when a process began")
        self.assertIs(attrs.evolve(us, began="1").is_alive(), False)

    def test_another_boot_ended_every_process(self) -> None:
        """However much its process id is in use."""
        us = Holder.of_this_process()
        host, boot, namespace = us.place.split("/")
        if not boot:
            self.skipTest("this system does not tell its boots apart")
        rebooted = attrs.evolve(us, place=f"{host}/0-0-0/{namespace}")
        self.assertIs(rebooted.is_alive(), False)

    def test_what_is_elsewhere_cannot_be_seen(self) -> None:
        """On another host, or in another container of this one."""
        us = Holder.of_this_process()
        host, boot, _ = us.place.split("/")
        for place in (f"other/{boot}/x", f"{host}/{boot}/pid:[1]", f"{host}/"):
            self.assertIs(attrs.evolve(us, place=place).is_alive(), None, place)
