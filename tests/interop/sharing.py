"""Test cases with a deployment: one to share, or one of a test's own.

Starting one takes seconds. Tests that leave a deployment as they found it share it;
the next layout that is asked for ends it, and so does the end of the run.
"""

from __future__ import annotations

import atexit
from typing import ClassVar

from twisted.trial.unittest import SynchronousTestCase

from tests.interop.deployment import Deployment, Layout

_shared: dict[Layout, Deployment] = {}


def _end_shared() -> None:
    while _shared:
        _shared.popitem()[1].close()


atexit.register(_end_shared)


def shared(layout: Layout) -> Deployment:
    """Return a running deployment in which every proxy holds every tunnel."""
    if layout not in _shared:
        _end_shared()
        deployment = Deployment(layout)
        _shared[layout] = deployment
        deployment.wait_tunnels()
    return _shared[layout]


class DeploymentTestCase(SynchronousTestCase):
    """A test that needs a deployment.

    :cvar layout: what the tests of this class share.
    """

    layout: ClassVar[Layout] = Layout()

    @property
    def deployment(self) -> Deployment:
        """The shared deployment; leave it as you found it."""
        return shared(self.layout)

    def deploy(self, layout: Layout) -> Deployment:
        """Start a deployment for this test alone, which may break it."""
        _end_shared()
        deployment = Deployment(layout)
        self.addCleanup(deployment.close)
        return deployment
