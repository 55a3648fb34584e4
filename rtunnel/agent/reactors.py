"""What an agent needs of a reactor."""

from __future__ import annotations

from twisted.internet.interfaces import (
    IReactorPluggableNameResolver,
    IReactorTCP,
    IReactorTime,
)


class IAgentReactor(IReactorTCP, IReactorTime, IReactorPluggableNameResolver):
    """Connects, keeps time, and resolves names."""
