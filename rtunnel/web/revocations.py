"""The paths of ``rtunnel revoke`` on the admin socket.

``GET /v1/revocations`` lists, ``POST`` revokes, ``DELETE`` takes back. The body of
``POST`` is a revocation as :meth:`rtunnel.trust.revocation.Revocation.to_json` writes
it, that of ``DELETE`` its ``id``. ``POST`` also answers in
``agents_not_told`` why agents do not hear of it, null when they do or it cannot be of a
proxy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rtunnel.proxy.revoking import Revoking
from rtunnel.trust.revocation import Revocation
from rtunnel.web.server import Response, Routes, WithBody

#: Where they are.
PATH = "/v1/revocations"


def revocation_routes(revoking: Revoking) -> Routes:
    """The path and its methods."""

    async def get(body: Mapping[str, object]) -> Response:
        records = await revoking.list()
        return Response(200, {"revocations": [_document(each) for each in records]})

    async def post(body: Mapping[str, object]) -> Response:
        record = Revocation.from_json(json.dumps(body))
        untold = await revoking.add(record)
        return Response(201, {**_document(record), "agents_not_told": untold})

    async def delete(body: Mapping[str, object]) -> Response:
        return Response(200, _document(await revoking.remove(str(body.get("id", "")))))

    return {
        PATH: {"GET": WithBody(get), "POST": WithBody(post), "DELETE": WithBody(delete)}
    }


def _document(record: Revocation) -> dict[str, Any]:
    return {"id": record.id, **json.loads(record.to_json())}
