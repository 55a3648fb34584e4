"""What the two plugins share: options, errors without tracebacks, logs, signals."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, ClassVar, Protocol, cast

from twisted.application.service import IService, MultiService
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Factory
from twisted.logger import (
    FilteringLogObserver,
    ILogObserver,
    Logger,
    LogLevel,
)
from twisted.python.components import Componentized
from twisted.python.failure import Failure
from twisted.python.logfile import LogFile
from twisted.python.usage import Options, UsageError

from rtunnel.errors import ConfigError, RtunnelError
from rtunnel.filling import finish_filling
from rtunnel.logging_format import LOG_FORMATS, at_least, make_observer
from rtunnel.lookups import THREADS
from rtunnel.tap.lean_polling import use_lean_polling
from rtunnel.tap.signals import Signals, Stoppable
from rtunnel.tap.spare_memory import SpareMemory, find_trim

_log = Logger()

LOG_LEVELS = ("debug", "info", "warn", "error")


class ProgramOptions(Options):
    """The part of the command line that both plugins have; each adds ``--config``."""

    optParameters: ClassVar[Sequence[Sequence[object]]] = [
        ["log-format", None, "text", "How to write the log: text or json."],
        ["log-level", None, "info", "What to write: debug, info, warn or error."],
    ]

    def postOptions(self) -> None:
        """Refuse a log format or level that there is not, and a file without a name.

        :raises UsageError: saying what there is.
        """
        if not self["config"]:
            # Of a variable that is not set; it would be the working directory.
            raise UsageError("--config is empty; give the path of the config file")
        for option, choices in (("log-format", LOG_FORMATS), ("log-level", LOG_LEVELS)):
            if self[option] not in choices:
                raise UsageError(
                    f"--{option}: {self[option]!r} is none of {', '.join(choices)}"
                )

    def parseArgs(self, *arguments: str) -> None:
        """Refuse a config file without ``--config`` in front of it.

        :raises UsageError: for any argument that belongs to no option.
        """
        if arguments:
            raise UsageError(
                f"{arguments[0]!r} belongs to no option; "
                "give the config file as --config FILE"
            )


class RunningReactor(Stoppable, Protocol):
    """The parts of the global reactor that a program uses for itself."""

    def callWhenRunning(self, callable: Callable[..., object]) -> object:
        """Run ``callable`` once the reactor runs; see ``IReactorCore``."""

    def suggestThreadPoolSize(self, size: int) -> object:
        """Have at most so many threads; see ``IReactorThreads``."""

    def addSystemEventTrigger(
        self, phase: str, eventType: str, callable: Callable[..., object]
    ) -> object:
        """Run ``callable`` around an event; see ``IReactorCore``."""


class ProgramService(Protocol):
    """What a proxy's and an agent's service have beyond ``IService``."""

    def reload(self) -> object:
        """Read again what may change while it runs; called for SIGHUP."""

    def setServiceParent(self, parent: MultiService) -> object:
        """See ``IService``."""


def make_program(
    tapname: str,
    options: Options,
    reactor: RunningReactor,
    build: Callable[[Path], tuple[ProgramService, Deferred[None] | None]],
) -> Program:
    """Build a plugin's service, or say in plain lines why it cannot be.

    :param tapname: starts each line.
    :param build: makes the service from the config file, with the Deferred that fails
        when it cannot start, if it has one.
    :raises SystemExit: with exit code 1, when ``build`` raises an expected error.
    """
    try:
        path = Path(options["config"])
        # Before anything is read there, the config file included.
        finish_filling(path.parent)
        service, started = build(path)
    except EXPECTED as error:
        # No log: it would come out on standard error a second time.
        _tell(tapname, error, sys.stderr)
        raise SystemExit(1) from None
    return Program(tapname, options, reactor, service, started)


class Program(MultiService):
    """The service that ``twistd`` runs, around the proxy or the agent.

    A failed start ends the process: one line per problem on standard error and in the
    log, no traceback for what can be expected, exit code 1.

    :param tapname: starts each line.
    :param options: those of the plugin; ``options.parent`` are ``twistd``'s own.
    :param started: fails when the service cannot do its work.
    """

    def __init__(
        self,
        tapname: str,
        options: Options,
        reactor: RunningReactor,
        service: ProgramService,
        started: Deferred[None] | None,
    ) -> None:
        super().__init__()
        self._tapname = tapname
        self._options = options
        self._reactor = reactor
        self._service = service
        self._started = started
        # Once logging begins, sys.stderr is the log.
        self._stderr = sys.stderr
        service.setServiceParent(self)
        trim = find_trim()
        if trim is not None:
            spare = SpareMemory(cast(IReactorTime, reactor), trim)
            cast(IService, spare).setServiceParent(self)

    def setServiceParent(self, parent: object) -> None:
        """Join ``twistd``'s application, and choose how it logs."""
        if isinstance(parent, Componentized):
            log_file = _open_log(self._options)
            if log_file is not None:
                level = LogLevel.levelWithName(self._options["log-level"])
                observer = FilteringLogObserver(
                    make_observer(self._options["log-format"], log_file),
                    [at_least(level)],
                )
                parent.setComponent(ILogObserver, observer)
        super().setServiceParent(parent)

    def startService(self) -> None:
        """Start, and watch how that goes."""
        # "Starting factory ..." for each connection to a target is no news.
        Factory.noisy = False
        use_lean_polling(self._reactor)
        signals = Signals(self._reactor, self._reload)
        self._reactor.callWhenRunning(signals.install)
        self._reactor.callWhenRunning(_set_aside)
        self._reactor.suggestThreadPoolSize(THREADS)
        super().startService()
        if self._started is not None:
            self._started.addErrback(self._start_failed)

    def _reload(self) -> None:
        try:
            self._service.reload()
        except EXPECTED as error:
            for problem in _problems(error):
                _log.error("not reloaded: {problem}", problem=problem)

    def _start_failed(self, failure: Failure) -> None:
        if failure.check(CancelledError):
            # Stopped while it was still starting.
            return
        assert failure.value is not None
        _tell(self._tapname, failure.value, self._stderr)
        if failure.check(*EXPECTED) is None:
            _log.failure("cannot start", failure)
        for problem in _problems(failure.value):
            _log.critical("cannot start: {problem}", problem=problem)
        self._reactor.addSystemEventTrigger("after", "shutdown", self._exit)
        self._reactor.callWhenRunning(self._reactor.stop)

    def _exit(self) -> None:
        # twistd itself ends with exit code 0 however its services fared.
        name = _twistd_options(self._options).get("pidfile")
        if name:
            with contextlib.suppress(OSError):
                os.unlink(name)
        sys.stdout.flush()
        self._stderr.flush()
        os._exit(1)


def _set_aside() -> None:
    """Let the garbage collector pass over all that there is now.

    Modules, classes and functions stay until the end. To look through them took up to
    0.3 s each time, in which nobody was served.
    """
    gc.collect()
    gc.freeze()


#: What to do when a port cannot be had.
_LISTENING = {
    errno.EACCES: "; ports below 1024 are for root, or CAP_NET_BIND_SERVICE",
    errno.EADDRINUSE: "; stop what listens there, or choose another port",
    errno.EADDRNOTAVAIL: "; choose an address that this machine has",
}

#: Errors with a sentence that says all there is to say.
EXPECTED = (RtunnelError, CannotListenError, OSError)


def _tell(tapname: str, error: BaseException, stderr: IO[str]) -> None:
    for problem in _problems(error):
        print(f"{tapname}: {problem}", file=stderr)


def _problems(error: BaseException) -> Sequence[str]:
    match error:
        case ConfigError():
            return error.problems
        case CannotListenError():
            where = error.interface or "any address"
            reason = getattr(error.socketError, "strerror", error.socketError)
            code = getattr(error.socketError, "errno", 0)
            # Of a Unix socket it is a path.
            hint = _LISTENING.get(code, "") if isinstance(error.port, int) else ""
            return [f"cannot listen on {where}, port {error.port}: {reason}{hint}"]
        case OSError(filename=str(name), strerror=str(reason)):
            return [f"{name}: {reason}"]
        case _:
            return [str(error)]


def _twistd_options(options: Options) -> Mapping[str, Any]:
    return options.parent or {}


def _open_log(options: Options) -> IO[str] | None:
    """The file that ``twistd`` would log to, or nothing where it must decide."""
    twistd = _twistd_options(options)
    if twistd.get("syslog"):
        return None
    name = twistd.get("logfile")
    if twistd.get("nodaemon") and name in (None, "", "-"):
        return sys.stdout
    if name == "-":
        return None
    return cast(IO[str], LogFile.fromFullPath(name or "twistd.log"))
