"""A server's host key, alone or with its certificate."""

from __future__ import annotations

from functools import cache

import attrs

from rtunnel.wire.algorithms import HOST_KEY_ALGORITHMS, signature_algorithm
from rtunnel.wire.certificate import CERTIFICATE_ALGORITHMS, Certificate
from rtunnel.wire.keys import PrivateKey


@attrs.frozen
class HostKey:
    """What a server proves itself with.

    :param private: the key.
    :param certificate: a host certificate that speaks of this very key.
    """

    private: PrivateKey
    certificate: Certificate | None = attrs.field(default=None)

    @certificate.validator
    def _speaks_of_key(
        self, attribute: attrs.Attribute[Certificate], value: Certificate | None
    ) -> None:
        if value is not None and value.key != self.private.public:
            raise ValueError("the host certificate speaks of another key")

    @property
    def algorithms(self) -> tuple[bytes, ...]:
        """Host key algorithms that it can do, those with the certificate first."""
        signatures = self.private.public.signature_algorithms
        return _algorithms(signatures, self.certificate is not None)

    def blob(self, algorithm: bytes) -> bytes:
        """What to show under one of :attr:`algorithms`: certificate or plain key."""
        if algorithm in CERTIFICATE_ALGORITHMS:
            assert self.certificate is not None
            return self.certificate.blob
        return self.private.public.blob

    def sign(self, data: bytes, algorithm: bytes) -> bytes:
        """Sign ``data`` under one of :attr:`algorithms`."""
        return self.private.sign(data, signature_algorithm(algorithm))


@cache
def _algorithms(signatures: tuple[bytes, ...], certified: bool) -> tuple[bytes, ...]:
    return tuple(
        name
        for name in HOST_KEY_ALGORITHMS
        if signature_algorithm(name) in signatures
        and (certified or name not in CERTIFICATE_ALGORITHMS)
    )
