"""What an agent needs of a reactor."""

from __future__ import annotations

from twisted.internet.interfaces import IReactorThreads

from rtunnel.target_dialer import IDialingReactor


class IAgentReactor(IDialingReactor, IReactorThreads):
    """Connects, to proxies and targets, keeps time, resolves names, has threads."""
