"""``/healthz`` and ``/readyz``: for load balancers and supervisors.

``/healthz`` is 200 as long as the process answers at all. ``/readyz`` is 200 while the
proxy should be sent new connections and 503 otherwise, with the reasons.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twisted.web.server import Site

from rtunnel.web.server import Handler, Response, make_site


def health_routes(
    reasons: Callable[[], Sequence[str]],
) -> Mapping[str, Mapping[str, Handler]]:
    """The two paths.

    :param reasons: why the proxy is not ready at this moment; none when it is.
    """

    def healthz() -> Response:
        return Response(200, {"status": "ok"})

    def readyz() -> Response:
        because = list(reasons())
        return Response(
            503 if because else 200, {"ready": not because, "reasons": because}
        )

    return {"/healthz": {"GET": healthz}, "/readyz": {"GET": readyz}}


def health_site(reasons: Callable[[], Sequence[str]], reactor: Any) -> Site:
    """A protocol factory that serves the two paths."""
    return make_site(health_routes(reasons), reactor)
