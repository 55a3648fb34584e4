"""Admissions of tests, and who enters."""

from __future__ import annotations

from rtunnel.ssh.admission import Admission, Ticket


def stays(reason: str) -> None:
    """Nobody is displaced here."""
    raise AssertionError(f"displaced: {reason}")


def enter(where: Admission, address: str | None) -> Ticket:
    """Enter and stay."""
    return where.enter(address, stays)
