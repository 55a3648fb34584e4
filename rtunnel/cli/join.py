"""``rtunnel join``: become an agent or a proxy, with the line that a token is in."""

from __future__ import annotations

import os
import sys
import time
import tomllib
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from rtunnel.agent.connect import Connector
from rtunnel.agent.join import Joining
from rtunnel.agent.tls import load_authorities
from rtunnel.cli.init import FIRST_AUTHORIZED_KEYS
from rtunnel.cli.issuing import (
    AGENT_FILES,
    CAS,
    PROXY_FILES,
    agent_config,
    agent_files,
    check_state,
    parse_agent_toml,
    parse_proxy_toml,
    proxy_files,
)
from rtunnel.cli.options import (
    force_option,
    key_type_option,
    set_option,
    state_option,
)
from rtunnel.cli.printing import host_key_note, shell_path, steps, until
from rtunnel.config import proxy_toml
from rtunnel.errors import CertificateError, ConfigError, JoinFailed, ProtocolError
from rtunnel.filling import NewFile, check_fillable, fill
from rtunnel.state_directory import (
    AGENT_CONFIG,
    AGENT_KEY,
    AUTHORIZED_KEYS,
    HOST_CA,
    HOST_KEY,
    PROXY_CONFIG,
)
from rtunnel.trust.join_token import MAX_LINE, JoinLine
from rtunnel.wire.certificate import Certificate, CertificateKind
from rtunnel.wire.keys import PrivateKey, PublicKey

_T = TypeVar("_T")


@click.command()
@click.argument("line", metavar="LINE")
@state_option
@key_type_option("--key-type", "the key that is made")
@set_option
@force_option
def join(
    line: str, state: Path, key_type: bytes, settings: tuple[str, ...], force: bool
) -> None:
    """Join with the line that a token is in.

    LINE is what `rtunnel token add` has printed, in quotes, or - to read it from
    standard input, where no other user can see it. Makes a key here, which never
    leaves, and fills the state directory: key, certificate, the authorities' public
    keys, and agent.toml, or proxy.toml where the line is for a proxy. When it fails
    nothing has been written.
    """
    if line == "-":
        line = sys.stdin.readline(MAX_LINE + 2)
    parsed = JoinLine.parse(line)
    newcomer: _Agent | _Proxy
    if parsed.kind == "agent":
        newcomer = _Agent(parsed, settings)
    else:
        newcomer = _Proxy(parsed, settings)
    newcomer.check(state)
    check_fillable(state, newcomer.names, force=force)
    tls_authorities = load_authorities(newcomer.tls_authorities(state))
    key = PrivateKey.generate(key_type)
    answer, host_key = _run(
        lambda reactor: _joined(reactor, parsed, key.public, tls_authorities)
    )
    certificate = newcomer.certificate(answer, key.public)
    files = newcomer.files(answer, key, certificate, host_key)
    fill(state, files, force=force)
    click.echo(newcomer.next_steps(state, certificate))


class _Agent:
    """What joining as an agent makes."""

    names = AGENT_FILES

    def __init__(self, line: JoinLine, settings: tuple[str, ...]) -> None:
        self._line = line
        self._settings = settings
        # Which key the proxies have is not known yet; nothing that is checked depends
        # on it.
        self._config = parse_agent_toml(self._text(None))

    def _text(self, host_key: PublicKey | None) -> str:
        line = self._line
        return agent_config(line.cluster, line.addresses, host_key, self._settings)

    def check(self, state: Path) -> None:
        """Refuse settings that cannot be, before anybody is asked.

        :raises ConfigError: when they cannot.
        """
        check_state(self._config, state)
        _check_cluster(self._config.cluster, self._line)

    def tls_authorities(self, state: Path) -> Sequence[Path]:
        """Who vouches for the line's ``tls:`` addresses; none, the system's."""
        return [state / path for path in self._config.tls_authorities]

    def certificate(self, answer: Mapping[str, str], key: PublicKey) -> Certificate:
        """The certificate in the answer.

        :raises JoinFailed: when it is not for this key and this cluster.
        """
        certificate = _certificate(answer, AGENT_KEY, key, CertificateKind.USER)
        if certificate.principals != (self._line.cluster,):
            raise JoinFailed("the proxy has certified an agent of another cluster")
        return certificate

    def files(
        self,
        answer: Mapping[str, str],
        key: PrivateKey,
        certificate: Certificate,
        host_key: PublicKey,
    ) -> list[NewFile]:
        """What goes into the state directory.

        :param host_key: of the proxy that has answered.
        """
        anchors = _authority(answer, HOST_CA)
        return agent_files(key, certificate, anchors, self._text(host_key))

    def next_steps(self, state: Path, certificate: Certificate) -> str:
        """What to do now."""
        command = f"twistd -n rtunnel-agent --config {shell_path(state / AGENT_CONFIG)}"
        return (
            f"An agent of cluster {self._line.cluster} is ready in "
            f"{shell_path(state)}; its certificate is valid until "
            f"{until(certificate)} and renews itself.\n\n"
            + steps(("Start it:", command))
        )


class _Proxy:
    """What joining as a proxy makes."""

    names = PROXY_FILES

    def __init__(self, line: JoinLine, settings: tuple[str, ...]) -> None:
        self._line = line
        self._settings = settings

    def check(self, state: Path) -> None:
        """Refuse settings that cannot be, as far as they can be known by now.

        :raises ConfigError: when they cannot.
        """
        config = parse_proxy_toml(
            proxy_toml({"cluster": self._line.cluster}, self._settings)
        )
        check_state(config, state)
        _check_cluster(config.cluster, self._line)

    def tls_authorities(self, state: Path) -> Sequence[Path]:
        """The system's."""
        return ()

    def certificate(self, answer: Mapping[str, str], key: PublicKey) -> Certificate:
        """The certificate in the answer.

        :raises JoinFailed: when it is not for this key and this cluster.
        """
        certificate = _certificate(answer, HOST_KEY, key, CertificateKind.HOST)
        if self._line.cluster not in certificate.principals[1:]:
            raise JoinFailed("the proxy has certified a proxy of another cluster")
        return certificate

    def files(
        self,
        answer: Mapping[str, str],
        key: PrivateKey,
        certificate: Certificate,
        host_key: PublicKey,
    ) -> list[NewFile]:
        """What goes into the state directory.

        :param host_key: of the proxy that has answered; its type binds nobody.
        :raises JoinFailed: when it would not do.
        """
        host_cas = _authority(answer, HOST_CA)
        if certificate.ca_key not in _keys(HOST_CA, host_cas):
            raise JoinFailed(
                "the proxies' authority is being exchanged, and the line names another "
                "one than has signed; ask for a new line"
            )
        try:
            common = tomllib.loads(_section(answer, PROXY_CONFIG))
        except tomllib.TOMLDecodeError as error:
            raise JoinFailed(f"the proxy's settings cannot be read: {error}") from None
        return proxy_files(
            key,
            certificate,
            {name: _authority(answer, name) for name in CAS},
            answer.get(AUTHORIZED_KEYS, FIRST_AUTHORIZED_KEYS),
            proxy_toml(common, self._settings),
        )

    def next_steps(self, state: Path, certificate: Certificate) -> str:
        """What to do now."""
        config_file = shell_path(state / PROXY_CONFIG)
        return (
            f"Proxy {certificate.key_id} of cluster {self._line.cluster} is ready in "
            f"{shell_path(state)}; its certificate is valid until "
            f"{until(certificate)} and renews itself.\n"
            f"It has the settings of the proxy that it joined at; see in {config_file} "
            "whether ssh.listen, web.listen and registry.url hold here too.\n"
            f"{host_key_note(certificate.key)}\n"
            + steps(("Start it:", f"twistd -n rtunnel-proxy --config {config_file}"))
        )


def _check_cluster(found: str, line: JoinLine) -> None:
    if found != line.cluster:
        raise ConfigError(
            [
                f'--set: cluster: found "{found}", expected "{line.cluster}", which is '
                "what the certificate will say"
            ]
        )


def _certificate(
    answer: Mapping[str, str], name: str, key: PublicKey, kind: CertificateKind
) -> Certificate:
    text = _section(answer, f"{name}-cert.pub")
    try:
        certificate, _ = Certificate.from_openssh(text.strip())
        certificate.check(
            kind=kind, trusted=[certificate.ca_key], now=certificate.valid_after
        )
    except (CertificateError, ProtocolError) as error:
        raise JoinFailed(
            f"the certificate from the proxy cannot be used: {error}"
        ) from None
    if certificate.key != key:
        raise JoinFailed("the proxy has certified another key than ours")
    return certificate


def _authority(answer: Mapping[str, str], name: str) -> str:
    """An authority's public keys, each of them well-formed."""
    text = _section(answer, f"{name}.pub")
    _keys(name, text)
    return text


def _keys(name: str, text: str) -> list[PublicKey]:
    try:
        return [PublicKey.from_openssh(line)[0] for line in text.splitlines()]
    except ProtocolError as error:
        raise JoinFailed(f"the keys of {name} cannot be used: {error}") from None


def _section(answer: Mapping[str, str], name: str) -> str:
    text = answer.get(name, "")
    if not text:
        raise JoinFailed(f"the proxy has sent no {name}; is it of another version?")
    return text


async def _joined(
    reactor: Any, line: JoinLine, key: PublicKey, tls_authorities: Any
) -> tuple[dict[str, str], PublicKey]:
    """What the proxy that let us in answers, and its host key."""
    joining = Joining(
        line,
        key,
        reactor=reactor,
        connector=Connector(reactor, os.environ, tls_authorities),
        now=time.time,
        progress=lambda text: click.echo(f"rtunnel: {text}", err=True),
    )
    answer = await joining.run()
    assert joining.host_key is not None
    return answer, joining.host_key


def _run(start: Callable[[Any], Coroutine[Any, Any, _T]]) -> _T:
    """Run the reactor for as long as something takes.

    :raises Abort: when it was interrupted.
    """
    from twisted.internet import reactor

    running: Any = reactor
    outcome: list[_T | Failure] = []
    stopping: list[bool] = []

    def begin() -> None:
        working = Deferred.fromCoroutine(start(running))

        def interrupted() -> None:
            stopping.append(True)
            working.cancel()

        def ended(result: _T | Failure) -> None:
            outcome.append(result)
            if not stopping:
                running.stop()

        running.addSystemEventTrigger("before", "shutdown", interrupted)
        working.addBoth(ended)

    running.callWhenRunning(begin)
    running.run()
    (result,) = outcome
    if isinstance(result, Failure):
        if result.check(CancelledError):
            raise click.Abort
        result.raiseException()
    return result
