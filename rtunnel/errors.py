"""The errors of rtunnel: whose fault, what, and what to do next.

``str(error)`` is always one sentence for a person. What a remote peer may see of it is
decided where the error is caught, not here.
"""

from __future__ import annotations

from collections.abc import Sequence

#: SSH_MSG_DISCONNECT reason codes (RFC 4253 section 11.1).
DISCONNECT_PROTOCOL_ERROR = 2
DISCONNECT_KEY_EXCHANGE_FAILED = 3
DISCONNECT_MAC_ERROR = 5
DISCONNECT_SERVICE_NOT_AVAILABLE = 7
DISCONNECT_PROTOCOL_VERSION_NOT_SUPPORTED = 8
DISCONNECT_HOST_KEY_NOT_VERIFIABLE = 9
DISCONNECT_CONNECTION_LOST = 10
DISCONNECT_BY_APPLICATION = 11
DISCONNECT_TOO_MANY_CONNECTIONS = 12
DISCONNECT_NO_MORE_AUTH_METHODS_AVAILABLE = 14

#: SSH_MSG_CHANNEL_OPEN_FAILURE reason codes (RFC 4254 section 5.1).
OPEN_ADMINISTRATIVELY_PROHIBITED = 1
OPEN_CONNECT_FAILED = 2
OPEN_UNKNOWN_CHANNEL_TYPE = 3
OPEN_RESOURCE_SHORTAGE = 4


class RtunnelError(Exception):
    """Base of every error that rtunnel raises on purpose."""


class ConfigError(RtunnelError):
    """A config file, or a value given on the command line, cannot be used.

    :param problems: every problem found, each naming file, key and what was expected.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class KeyFileError(RtunnelError):
    """A key or certificate file is missing, unreadable, too open or malformed."""


class ProtocolError(RtunnelError):
    """The peer broke the SSH protocol or one of our limits; the connection ends.

    :param text: one sentence; sent to the peer in SSH_MSG_DISCONNECT and logged.
    :param reason_code: DISCONNECT reason code (RFC 4253 section 11.1).
    """

    def __init__(self, text: str, reason_code: int = DISCONNECT_PROTOCOL_ERROR) -> None:
        super().__init__(text)
        self.reason_code = reason_code


class KeyFormatError(ProtocolError):
    """A public key blob is malformed, of an unknown kind or of a refused size."""


class CertificateError(RtunnelError):
    """A certificate is malformed or not acceptable; says why, for our own log."""


class RevocationListError(RtunnelError):
    """A key revocation list is malformed, or asks for what we do not understand."""


class AuthenticationRefused(RtunnelError):
    """A login is refused; says why, for our own log. The peer hears only "no"."""


class JoinLineError(RtunnelError):
    """A line to join with cannot be read; never shows the token in it."""


class JoinFailed(RtunnelError):
    """Joining did not work; says why, and what to do."""


class SigningRefused(RtunnelError):
    """A request for a certificate is not justified; says why, for our own log."""


class SigningUnavailable(RtunnelError):
    """No proxy that could sign can be asked now; says why, for whoever wants it."""


class RevocationRefused(RtunnelError):
    """Something cannot be revoked, or taken back, so; says what to do."""


class RotationRefused(RtunnelError):
    """An authority cannot be rotated now, or not so; says what to do."""


class BundleRefused(RtunnelError):
    """A trust bundle is signed by nobody whom we trust; says what to do."""


class ConnectionFailed(RtunnelError):
    """An SSH connection that we started did not come up."""


class HostRefused(ConnectionFailed):
    """We hung up in the host-key check, before authenticating."""


class AuthorityUnknown(HostRefused):
    """The host certificate is of an authority that is not ours."""


class AuthenticationFailed(ConnectionFailed):
    """The peer did not accept our key or certificate."""


class ConnectionClosed(RtunnelError):
    """The SSH connection under a channel or request is gone."""


class RequestFailed(RtunnelError):
    """The peer answered a channel or global request with failure."""


class OpenRefused(RtunnelError):
    """A channel cannot be opened.

    :param reason_code: SSH reason code (RFC 4254 section 5.1), see ``OPEN_*``.
    :param text: one sentence a person can act on; it is what ``ssh`` shows.
    """

    def __init__(self, reason_code: int, text: str) -> None:
        super().__init__(text)
        self.reason_code = reason_code
        self.text = text


class MessageError(RtunnelError):
    """A control message or transport request is malformed; ends the tunnel."""


class UnknownMessage(RtunnelError):
    """A control message of a name we do not know; answered with failure."""


class RegistryError(RtunnelError):
    """The registry cannot be read or written at the moment, or holds nonsense."""


class InvalidName(RtunnelError):
    """A cluster, host or user name, or a target, is not well-formed."""
