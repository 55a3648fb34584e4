"""The paths of ``rtunnel token`` on the admin socket.

``GET /v1/tokens`` lists, ``POST`` adds, ``DELETE`` withdraws. The body of ``POST`` is a
token's record with its ``hash``; the token itself never comes here. That of ``DELETE``
is its ``id``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from rtunnel.proxy.tokens import Tokens
from rtunnel.trust.join_token import TokenRecord
from rtunnel.web.server import Response, Routes, WithBody

#: Where they are.
PATH = "/v1/tokens"


def token_routes(tokens: Tokens) -> Routes:
    """The path and its methods."""

    async def get(body: Mapping[str, object]) -> Response:
        records = await tokens.list()
        return Response(200, {"tokens": [token_document(each) for each in records]})

    async def post(body: Mapping[str, object]) -> Response:
        record = read_document(body)
        await tokens.add(record)
        return Response(201, token_document(record))

    async def delete(body: Mapping[str, object]) -> Response:
        removed = await tokens.remove(str(body.get("id", "")))
        return Response(200, token_document(removed))

    return {
        PATH: {"GET": WithBody(get), "POST": WithBody(post), "DELETE": WithBody(delete)}
    }


def token_document(record: TokenRecord) -> dict[str, Any]:
    """A record as JSON."""
    return attrs.asdict(record)


def read_document(document: Mapping[str, object]) -> TokenRecord:
    """Read what :func:`token_document` has made.

    :raises InvalidName: when it is no token's record.
    """
    names = document.get("names", [])
    return TokenRecord.make(
        str(document.get("hash")),
        {**document, "names": list(names) if isinstance(names, tuple) else names},
    )
