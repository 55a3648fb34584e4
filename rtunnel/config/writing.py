"""Config files written: every key with its default, and what it is for beside it."""

import tomllib
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any

import attrs

from rtunnel.config.addresses import Address
from rtunnel.config.algorithm_lists import (
    AGENT_ALGORITHM_COMMENTS,
    PROXY_ALGORITHM_COMMENTS,
)
from rtunnel.config.structuring import Problem, Problems, key_names, structure
from rtunnel.config.toml_text import render_document
from rtunnel.config.values import AgentConfig, ProxyConfig
from rtunnel.errors import ConfigError
from rtunnel.naming import printable
from rtunnel.trust.targets import TargetPatterns

PROXY_COMMENTS = {
    "name": "for people; default: the host name",
    "state": "relative to this file: keys, certificates, registry, admin.sock",
    "close_on_change": "close what rules, authorized_keys or authorities allow no "
    "longer; reloaded on SIGHUP",
    "ssh.listen": "agents and clients; Twisted server endpoint strings, so tcp:, "
    "unix:, systemd:, haproxy: ...",
    "ssh.public": "what agents and clients are told to use",
    "ssh.advertise": "where agents can reach this very proxy, if they can",
    "ssh.authorized_keys": "relative to state, as every path below",
    "ssh.proxy_protocol_from": "addresses or networks of balancers that begin each "
    "connection with a PROXY header (send-proxy, send-proxy-v2), and have to",
    **PROXY_ALGORITHM_COMMENTS,
    "web.listen": "/healthz, /readyz",
    "registry.url": '"sqlite:PATH", or "memory:" for a proxy that is alone',
    "peer.listen": "other proxies; default: the ssh listener",
    "peer.advertise": "what other proxies dial",
    "tunnel.heartbeat": "seconds between heartbeats",
    "tunnel.missed": "missed before a tunnel is dead",
    "limits.login_grace": "seconds from accept to authenticated",
    "limits.unauthenticated": "connections, all sources",
    "limits.unauthenticated_per_source": "connections",
    "limits.penalties": "refuse sources for a while that come in vain too often",
    "limits.penalties_exempt": "never these; list a balancer that sends no PROXY "
    "header",
    "limits.channels_per_connection": "open at the same time",
    "limits.sessions_outlive_certificates": "let open connections finish when the "
    "certificate expires; new ones are refused all the same",
    "drain.timeout": "seconds that open channels get after SIGTERM",
    "drain.grace": "seconds of these in which new ones are taken; /readyz says 503",
    "local.allow": "targets of this proxy's own cluster that it may dial itself, "
    '"host:port", "*.lan:22", "10.0.0.0/8:22"',
    "revocation.krl": "OpenSSH key revocation lists (ssh-keygen -k), read again when "
    "they change",
    "certificates.agent_ttl": "seconds that agents' certificates are valid which this "
    "proxy signs by itself; renewed at two thirds of it",
    "certificates.proxy_ttl": "likewise of proxies",
    "audit.path": "JSON lines",
    "audit.required": "take nobody while it cannot be written",
    "audit.refused_logins_per_second": "lines about those who did not get in; one "
    "line tells how many more there were",
    "audit.refused_logins_burst": "the same at once",
    "allow": "who may reach what; no rule, no access; reloaded on SIGHUP",
    "allow.users": "certificate principals, or the names given in authorized_keys",
    "allow.times": 'when, as "mon-fri 08:00-18:00", in UTC; default: always',
}

AGENT_COMMENTS = {
    "state": "relative to this file: key, certificate, CA",
    "proxies": "one or more addresses, all A and AAAA records of each; "
    '"tls:host:443" is SSH inside TLS',
    "tls_authorities": "files of PEM certificates that vouch for tls: addresses; "
    "default: the system's",
    "tunnels": "or a number: hold that many, let the proxies pass connections on",
    "allow": "what may be reached through this agent; the last word",
    "resolve": 'names: {"web1" = "10.0.0.5"}',
    "close_on_change": "close connections that allow lists no longer; reloaded on "
    "SIGHUP",
    **AGENT_ALGORITHM_COMMENTS,
    "tunnel.heartbeat": "seconds between heartbeats",
    "tunnel.missed": "missed before a tunnel is dead",
    "renewal.fresh_key": "make a new key for each new certificate",
}

#: The rule that a new proxy starts with.
FIRST_RULE = {"users": ["*"], "clusters": ["*"], "targets": ["*:22"], "times": []}


def proxy_toml(values: Mapping[str, Any], overrides: Sequence[str] = ()) -> str:
    """The text of a ``proxy.toml``.

    :param values: TOML data, or values of ours, laid over the defaults, such as
        ``{"cluster": "a", "ssh": {"public": ["lb.example.com:3023"]}}``. Without
        ``allow`` the file starts with a rule that lets everybody with a login reach
        port 22.
    :param overrides: ``KEY=VALUE`` arguments as given to ``--set``.
    :raises ConfigError: with every value that is wrong, naming the argument or the key.
    """
    defaults = _defaults(ProxyConfig) | {"allow": [FIRST_RULE]}
    return _render("proxy.toml", ProxyConfig, defaults, values, overrides)


def agent_toml(values: Mapping[str, Any], overrides: Sequence[str] = ()) -> str:
    """The text of an ``agent.toml``.

    :param values: TOML data laid over the defaults; ``cluster`` and ``proxies`` have
        none.
    :param overrides: ``KEY=VALUE`` arguments as given to ``--set``.
    :raises ConfigError: with every value that is wrong, naming the argument or the key.
    """
    return _render("agent.toml", AgentConfig, _defaults(AgentConfig), values, overrides)


def _render(
    name: str,
    kind: type[ProxyConfig] | type[AgentConfig],
    defaults: dict[str, Any],
    values: Mapping[str, Any],
    overrides: Sequence[str],
) -> str:
    settings = _parse_overrides(overrides)
    data = _overlaid(defaults, _plain(values))
    for _, setting in settings:
        data = _overlaid(data, setting)
    data = {key: value for key, value in data.items() if value is not None}
    comments = PROXY_COMMENTS if kind is ProxyConfig else AGENT_COMMENTS
    text = render_document(data, comments, inline=["resolve"])
    try:
        structure(tomllib.loads(text), kind)
    except Problems as error:
        lines = [p.describe(_origin(p, settings) or name) for p in error.problems]
        raise ConfigError(lines) from None
    return text


def _defaults(kind: type) -> dict[str, Any]:
    """Every key of a table that has a default, in order, as TOML data."""
    fields = {a.name: a.default for a in attrs.fields(kind)}
    defaults = {}
    for name in key_names(kind):
        default = fields[name]
        if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
            default = default.factory()
        defaults[name] = None if default is attrs.NOTHING else _plain(default)
    return defaults


def _plain(value: Any) -> Any:
    """A value of ours as TOML data."""
    match value:
        case Path() | Address() | IPv4Network() | IPv6Network():
            return str(value)
        case TargetPatterns() | tuple() | list():
            return [_plain(element) for element in value]
        case Mapping():
            return {key: _plain(below) for key, below in value.items()}
        case float() if value.is_integer():
            return int(value)
    return _defaults(type(value)) if attrs.has(type(value)) else value


def _overlaid(data: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``data`` with ``over`` laid over it: tables key by key, the rest replaced."""
    result = dict(data)
    for key, value in over.items():
        old = result.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            result[key] = _overlaid(old, value)
        else:
            result[key] = value
    return result


def _parse_overrides(overrides: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    """Each argument with the TOML data that it stands for."""
    settings = []
    problems = []
    for argument in overrides:
        try:
            setting = tomllib.loads(argument)
        except (ValueError, RecursionError) as error:
            problems.append(
                f"{_named(argument)}: is not KEY=VALUE with VALUE in TOML "
                f"({printable(str(error))}); a string needs quotes: "
                "--set 'name=\"proxy-1\"'"
            )
            continue
        if not setting:
            problems.append(f"{_named(argument)}: is not KEY=VALUE")
        settings.append((argument, setting))
    if problems:
        raise ConfigError(problems)
    return settings


def _origin(problem: Problem, settings: list[tuple[str, dict[str, Any]]]) -> str | None:
    """The last argument that touched the key of ``problem``."""
    for argument, setting in reversed(settings):
        for path in _leaves(setting):
            length = min(len(path), len(problem.key))
            if path[:length] == problem.key[:length]:
                return _named(argument)
    return None


def _leaves(setting: Mapping[str, Any]) -> list[tuple[str, ...]]:
    paths: list[tuple[str, ...]] = []
    for key, value in setting.items():
        below = _leaves(value) if isinstance(value, Mapping) else []
        paths += [(key, *path) for path in below] or [(key,)]
    return paths


def _named(argument: str) -> str:
    return f"--set {printable(argument)!r}"
