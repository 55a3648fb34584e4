"""The paths of ``rtunnel ca`` on the admin socket.

``GET /v1/ca`` says where the three authorities stand. ``POST /v1/ca`` takes one step
of a rotation: its body has ``role``, and may have ``to`` (a phase), ``back`` and
``force``. ``DELETE /v1/ca`` forgets a proxy or an agent that is gone for good, by its
``id``.
"""

from __future__ import annotations

from collections.abc import Mapping

from rtunnel.admin_client import AUTHORITIES_PATH
from rtunnel.errors import RotationRefused
from rtunnel.proxy.rotation import Rotation
from rtunnel.timestamps import rfc3339
from rtunnel.trust.bundle import ROLES, Phase
from rtunnel.web.server import Response, Routes, WithBody


def rotation_routes(rotation: Rotation) -> Routes:
    """The path and its methods."""

    async def get(body: Mapping[str, object]) -> Response:
        return Response(200, await rotation.status())

    async def post(body: Mapping[str, object]) -> Response:
        role, to = body.get("role"), body.get("to")
        if role not in ROLES:
            raise RotationRefused(f"the authorities are {', '.join(ROLES)}")
        try:
            phase = None if to is None else Phase(to)
        except ValueError:
            phases = ", ".join(each.value for each in Phase)
            raise RotationRefused(f"the phases are {phases}") from None
        done = await rotation.move(
            role,
            phase,
            back=body.get("back") is True,
            force=body.get("force") is True,
        )
        return Response(200, done)

    async def delete(body: Mapping[str, object]) -> Response:
        gone = await rotation.forget(str(body.get("id", "")))
        return Response(
            200,
            {
                "kind": gone.kind,
                "id": gone.id,
                "name": gone.name,
                "certificate_ends": rfc3339(gone.valid_before, "seconds"),
            },
        )

    return {
        AUTHORITIES_PATH: {
            "GET": WithBody(get),
            "POST": WithBody(post),
            "DELETE": WithBody(delete),
        }
    }
