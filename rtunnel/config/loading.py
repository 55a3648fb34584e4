"""Config files read: TOML to frozen values, every problem of a file at once."""

import tomllib
from pathlib import Path
from typing import Any, TypeVar

import attrs

from rtunnel.config.structuring import Problems, structure
from rtunnel.config.values import AgentConfig, ProxyConfig
from rtunnel.errors import ConfigError
from rtunnel.naming import printable

Config = TypeVar("Config", bound=ProxyConfig | AgentConfig)

#: Bytes in a config file, at most.
MAX_SIZE = 1 << 20


@attrs.frozen
class _Kind:
    whose: str
    name: str
    written_by: str
    keys: frozenset[str]

    @classmethod
    def of(cls, kind: type[ProxyConfig | AgentConfig], whose: str, by: str) -> "_Kind":
        """What the errors say of one of the two kinds of config files."""
        keys = frozenset(key for key in attrs.fields_dict(kind) if key != "path")
        return cls(whose, f"{whose}.toml", by, keys)


_PROXY = _Kind.of(ProxyConfig, "proxy", "'rtunnel init'")
_AGENT = _Kind.of(AgentConfig, "agent", "'rtunnel join'")
_KINDS: dict[type, tuple[_Kind, _Kind]] = {
    ProxyConfig: (_PROXY, _AGENT),
    AgentConfig: (_AGENT, _PROXY),
}


def load_proxy(path: str | Path) -> ProxyConfig:
    """Read ``proxy.toml``.

    :param path: the file; ``state`` inside it is relative to where it is.
    :raises ConfigError: with every problem of the file.
    """
    config = _load(Path(path), ProxyConfig)
    state = config.path.parent / config.state
    return attrs.evolve(
        config,
        state=state,
        ssh=attrs.evolve(
            config.ssh, authorized_keys=state / config.ssh.authorized_keys
        ),
        audit=attrs.evolve(config.audit, path=state / config.audit.path),
        revocation=attrs.evolve(
            config.revocation, krl=tuple(state / path for path in config.revocation.krl)
        ),
    )


def load_agent(path: str | Path) -> AgentConfig:
    """Read ``agent.toml``.

    :param path: the file; ``state`` inside it is relative to where it is.
    :raises ConfigError: with every problem of the file.
    """
    config = _load(Path(path), AgentConfig)
    state = config.path.parent / config.state
    return attrs.evolve(
        config,
        state=state,
        tls_authorities=tuple(state / each for each in config.tls_authorities),
    )


def _load(path: Path, kind: type[Config]) -> Config:
    data = _read(path, kind)
    wanted, other = _KINDS[kind]
    if data.keys() & (other.keys - wanted.keys) and not (
        data.keys() & (wanted.keys - other.keys)
    ):
        name = printable(str(path))
        raise ConfigError(
            [
                f"{name}: is the config file of {_a(other)}, not of {_a(wanted)}; "
                f"twistd rtunnel-{other.whose} runs it"
            ]
        )
    try:
        config = structure(data, kind)
    except Problems as error:
        raise ConfigError([p.describe(path) for p in error.problems]) from None
    return attrs.evolve(config, path=path.absolute())


def _read(path: Path, kind: type) -> dict[str, Any]:
    name = printable(str(path))
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_SIZE + 1)
    except FileNotFoundError:
        wanted, other = _KINDS[kind]
        why = f"{wanted.written_by} writes one"
        if path.name == wanted.name and path.with_name(other.name).exists():
            why = f"there is {other.name}, so this is the directory of {_a(other)}"
        raise ConfigError(
            [
                f"{name}: no such file; {why}, and --state (with twistd: --config) "
                "says where it is"
            ]
        ) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError([f"{name}: cannot be read: {reason}"]) from error
    if len(content) > MAX_SIZE:
        raise ConfigError([f"{name}: is longer than {MAX_SIZE} bytes"])
    try:
        # Some editors begin a file with a byte order mark.
        return tomllib.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError([f"{name}: is not UTF-8 (at line {line})"]) from None
    except ValueError as error:
        raise ConfigError([f"{name}: is not TOML: {printable(str(error))}"]) from None
    except RecursionError:
        raise ConfigError([f"{name}: is nested too deeply"]) from None


def _a(kind: _Kind) -> str:
    return f"an {kind.whose}" if kind.whose[0] in "aeiou" else f"a {kind.whose}"
