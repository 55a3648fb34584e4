"""The epoll reactor's events without what Twisted wraps around each of them.

Twisted prepares for legacy log messages, at each event, a context that says which
connection they are about. Nothing of ours logs that way, and for a packet of a few
bytes it takes as long as the packet itself does.

Parts of the reactor are used that are not public; ``tests/tap/test_lean_polling.py``
says so if they are not there any longer. Under any other reactor nothing changes.
"""

from __future__ import annotations

from typing import Any

from twisted.logger import Logger

_log = Logger()


def use_lean_polling(reactor: object) -> bool:
    """Let a reactor of Twisted's epoll kind handle its events without the context.

    :return: False when it is of another kind, and stays as it was.
    """
    try:
        from twisted.internet.epollreactor import EPollReactor
    except ImportError:  # not Linux
        return False
    if type(reactor) is not EPollReactor:
        return False
    vars(reactor)["doIteration"] = _lean_iteration(reactor)
    return True


def _lean_iteration(reactor: Any) -> Any:
    poll = reactor._poller.poll
    selectables: dict[int, Any] = reactor._selectables
    # Reads or writes, and ends the connection when that says so, or raises.
    do_read_or_write = reactor._doReadOrWrite
    disconnect = reactor._disconnectSelectable
    readable = reactor._POLL_IN

    def iterate(timeout: float | None) -> None:
        events = poll(-1 if timeout is None else timeout, len(selectables))
        for descriptor, event in events:
            selectable = selectables.get(descriptor)
            # The event before may have ended it.
            if selectable is not None:
                try:
                    if event == readable:
                        # Nearly always, so without what the other events need.
                        try:
                            why = selectable.doRead()
                        except Exception as error:
                            _log.failure("a reader failed")
                            why = error
                        if why:
                            disconnect(selectable, why, True)
                    else:
                        do_read_or_write(selectable, descriptor, event)
                except Exception:
                    _log.failure("a reader or writer failed")

    return iterate
