"""For which role a certificate is signed. Pure."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

#: Who is certified; ``agent`` by the agent CA, ``proxy`` by the host CA.
Role: TypeAlias = Literal["agent", "proxy"]
ROLES: Final[tuple[Role, ...]] = ("agent", "proxy")
