"""What an agent needs of a reactor."""

from __future__ import annotations

from rtunnel.target_dialer import IDialingReactor


class IAgentReactor(IDialingReactor):
    """Connects, to proxies and targets, keeps time, and resolves names."""
