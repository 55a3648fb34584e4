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

_WRITTEN_BY: dict[type, str] = {
    ProxyConfig: "'rtunnel init' writes one",
    AgentConfig: "'rtunnel join' writes one",
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
        raise ConfigError(
            [
                f"{name}: no such file; {_WRITTEN_BY[kind]}, and --state (with twistd: "
                "--config) says where it is"
            ]
        ) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError([f"{name}: cannot be read: {reason}"]) from error
    if len(content) > MAX_SIZE:
        raise ConfigError([f"{name}: is longer than {MAX_SIZE} bytes"])
    try:
        return tomllib.loads(content.decode())
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError([f"{name}: is not UTF-8 (at line {line})"]) from None
    except ValueError as error:
        raise ConfigError([f"{name}: is not TOML: {printable(str(error))}"]) from None
    except RecursionError:
        raise ConfigError([f"{name}: is nested too deeply"]) from None
