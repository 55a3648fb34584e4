"""Keys for what would have them made in a thread."""

from __future__ import annotations

from rtunnel.wire.keys import PrivateKey


async def make_key_at_once(key_type: bytes) -> PrivateKey:
    """A :data:`~rtunnel.key_making.MakeKey` that has nobody wait."""
    return PrivateKey.generate(key_type)
