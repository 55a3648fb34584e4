"""The life of one tunnel as a state machine, from the dial to the end.

.. code-block:: text

    Idle → Connecting → Handshaking → Authenticating → Greeting → In service → Draining
                 │           │              │             │           │           │
                 └───────────┴──────────────┴──────┬──────┴───────────┴───────────┘
                                                Closing → Closed

Everything that changes the state of a tunnel is in this file, and nothing here knows a
socket: what has to be done is asked of :class:`TunnelActions`. What may be missed is
bounded by a deadline in each state that waits for somebody else.

An input that can come late changes nothing then, and there is a ``loop`` that says so.
An input that cannot come in a state, such as a login before a connection, is an error
of ours: ``NoTransition``.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Final, Protocol

import attrs
from automat import TypeMachineBuilder
from twisted.internet.interfaces import IDelayedCall, IReactorTime


class TunnelState(enum.Enum):
    """How far a tunnel is; the values are for people."""

    IDLE = "idle"
    CONNECTING = "connecting"
    HANDSHAKING = "handshaking"
    AUTHENTICATING = "authenticating"
    GREETING = "greeting"
    IN_SERVICE = "in service"
    DRAINING = "draining"
    CLOSING = "closing"
    CLOSED = "closed"


@attrs.frozen
class Deadlines:
    """How long each step may take, in seconds.

    :param tcp: from the dial to a connection: names resolved, TCP, CONNECT and TLS.
    :param login: from there until the proxy has accepted our certificate.
    :param hello: from there until the proxy has answered our hello.
    :param close: from our goodbye until the connection is cut.
    """

    tcp: float = 10.0
    login: float = 15.0
    hello: float = 5.0
    close: float = 5.0


DEFAULT_DEADLINES: Final = Deadlines()


class TunnelActions(Protocol):
    """What the machine asks for. None of it raises."""

    def dial(self) -> None:
        """Begin to connect; ``connected`` or ``lost`` follows."""

    def greet(self) -> None:
        """Open the control channel and say hello."""

    def serve(self) -> None:
        """The tunnel is in service: tell who is interested, and serve channels."""

    def refuse_new(self, by_proxy: bool) -> None:
        """Serve no new channels, and let the tunnel be replaced."""

    def say_drain(self, seconds: float) -> None:
        """Tell the proxy that we are leaving."""

    def hang_up(self, reason: str) -> None:
        """End the connection, or the attempt, in good order; ``lost`` follows."""

    def cut(self) -> None:
        """End the connection now; ``lost`` follows."""

    def ended(self, reason: str, by_us: bool) -> None:
        """It is over. Called once; nothing follows.

        :param reason: one sentence, for the log.
        :param by_us: we wanted it, so nobody is to blame.
        """


class TunnelLife(Protocol):
    """The inputs: what happened, and what its owner wants."""

    def start(self) -> None:
        """Dial."""

    def connected(self) -> None:
        """There is a connection to speak SSH over."""

    def host_accepted(self) -> None:
        """The host certificate is good, and its proxy is claimed for this tunnel."""

    def authenticated(self) -> None:
        """The proxy has accepted our certificate."""

    def greeted(self) -> None:
        """The proxy has answered our hello with success."""

    def drain_received(self, seconds: float) -> None:
        """The proxy is leaving.

        :param seconds: that it gives to what is open.
        """

    def drain_requested(self, seconds: float) -> None:
        """We want to let go of the tunnel without losing anything.

        :param seconds: that what is open has to finish.
        """

    def drained(self) -> None:
        """Nothing is open any longer, and nobody needs the tunnel."""

    def failed(self, reason: str) -> None:
        """Something came from the proxy, or did not, so that the tunnel cannot stay."""

    def close(self, reason: str) -> None:
        """End it now, whatever is open."""

    def deadline_passed(self) -> None:
        """The state has lasted too long."""

    def lost(self, reason: str) -> None:
        """The connection is gone, or never came to be."""


@attrs.define
class TunnelCore:
    """What the states of one tunnel share.

    :param actions: does what has to be done.
    :ivar state: for status and logs.
    """

    # Required parameters.
    actions: TunnelActions
    clock: IReactorTime
    deadlines: Deadlines = DEFAULT_DEADLINES

    # Internal state.
    state: TunnelState = TunnelState.IDLE
    reason: str | None = None
    by_us: bool = False
    timer: IDelayedCall | None = None

    def wait(self, life: TunnelLife, seconds: float) -> None:
        """Give what comes next a deadline, in place of the one before."""
        self.stop_waiting()
        self.timer = self.clock.callLater(seconds, life.deadline_passed)

    def stop_waiting(self) -> None:
        """There is no deadline any longer."""
        if self.timer is not None and self.timer.active():
            self.timer.cancel()
        self.timer = None

    def end(self, life: TunnelLife, reason: str, by_us: bool = False) -> None:
        """Begin to close; the first reason is the one that counts."""
        self.state = TunnelState.CLOSING
        self.reason = reason
        self.by_us = by_us
        self.wait(life, self.deadlines.close)
        self.actions.hang_up(reason)


def make_machine() -> Callable[[TunnelCore], TunnelLife]:
    """Build the machine; call the result with a core for each tunnel."""
    machine = TypeMachineBuilder(TunnelLife, TunnelCore)

    idle = machine.state("Idle")
    connecting = machine.state("Connecting")
    handshaking = machine.state("Handshaking")
    authenticating = machine.state("Authenticating")
    greeting = machine.state("Greeting")
    in_service = machine.state("In service")
    draining = machine.state("Draining")
    closing = machine.state("Closing")
    closed = machine.state("Closed")

    rising = (connecting, handshaking, authenticating, greeting)
    up = (*rising, in_service, draining)

    # The way up.

    @idle.upon(TunnelLife.start).to(connecting)
    def dial(life: TunnelLife, core: TunnelCore) -> None:
        core.state = TunnelState.CONNECTING
        core.wait(life, core.deadlines.tcp)
        core.actions.dial()

    @connecting.upon(TunnelLife.connected).to(handshaking)
    def shake_hands(life: TunnelLife, core: TunnelCore) -> None:
        core.state = TunnelState.HANDSHAKING
        core.wait(life, core.deadlines.login)

    @handshaking.upon(TunnelLife.host_accepted).to(authenticating)
    def log_in(life: TunnelLife, core: TunnelCore) -> None:
        # The deadline for the login goes on.
        core.state = TunnelState.AUTHENTICATING

    @authenticating.upon(TunnelLife.authenticated).to(greeting)
    def greet(life: TunnelLife, core: TunnelCore) -> None:
        core.state = TunnelState.GREETING
        core.wait(life, core.deadlines.hello)
        core.actions.greet()

    @greeting.upon(TunnelLife.greeted).to(in_service)
    def serve(life: TunnelLife, core: TunnelCore) -> None:
        core.state = TunnelState.IN_SERVICE
        core.stop_waiting()
        core.actions.serve()

    # The way down.

    @in_service.upon(TunnelLife.drain_received).to(draining)
    def drain_for_proxy(life: TunnelLife, core: TunnelCore, seconds: float) -> None:
        # The proxy closes when its time is over; we need not be faster than it.
        core.state = TunnelState.DRAINING
        core.wait(life, seconds + core.deadlines.close)
        core.actions.refuse_new(True)

    @in_service.upon(TunnelLife.drain_requested).to(draining)
    def drain_for_us(life: TunnelLife, core: TunnelCore, seconds: float) -> None:
        core.state = TunnelState.DRAINING
        core.wait(life, seconds)
        core.actions.refuse_new(False)
        core.actions.say_drain(seconds)

    @draining.upon(TunnelLife.drain_requested).loop()
    def drain_sooner(life: TunnelLife, core: TunnelCore, seconds: float) -> None:
        timer = core.timer
        if timer is None or timer.getTime() > core.clock.seconds() + seconds:
            core.wait(life, seconds)

    @draining.upon(TunnelLife.drained).to(closing)
    def let_go(life: TunnelLife, core: TunnelCore) -> None:
        core.end(life, "drained", by_us=True)

    for state in rising:

        @state.upon(TunnelLife.drain_requested).to(closing)
        def never_mind(life: TunnelLife, core: TunnelCore, seconds: float) -> None:
            core.end(life, "not needed any longer", by_us=True)

    @greeting.upon(TunnelLife.drain_received).to(closing)
    def came_too_late(life: TunnelLife, core: TunnelCore, seconds: float) -> None:
        core.end(life, "the proxy is draining")

    for state in up:

        @state.upon(TunnelLife.close).to(closing)
        def close(life: TunnelLife, core: TunnelCore, reason: str) -> None:
            core.end(life, reason, by_us=True)

        @state.upon(TunnelLife.failed).to(closing)
        def fail(life: TunnelLife, core: TunnelCore, reason: str) -> None:
            core.end(life, reason)

        @state.upon(TunnelLife.lost).to(closed)
        def lose(life: TunnelLife, core: TunnelCore, reason: str) -> None:
            finish(core, reason)

    # Deadlines.

    @connecting.upon(TunnelLife.deadline_passed).to(closing)
    def no_connection(life: TunnelLife, core: TunnelCore) -> None:
        core.end(life, f"no connection within {core.deadlines.tcp:g} s")

    for state in (handshaking, authenticating):

        @state.upon(TunnelLife.deadline_passed).to(closing)
        def no_login(life: TunnelLife, core: TunnelCore) -> None:
            core.end(life, f"no SSH login within {core.deadlines.login:g} s")

    @greeting.upon(TunnelLife.deadline_passed).to(closing)
    def no_answer(life: TunnelLife, core: TunnelCore) -> None:
        core.end(life, f"no answer to hello within {core.deadlines.hello:g} s")

    @draining.upon(TunnelLife.deadline_passed).to(closing)
    def too_long(life: TunnelLife, core: TunnelCore) -> None:
        core.end(life, "connections were still open when the drain was over", True)

    @closing.upon(TunnelLife.deadline_passed).loop()
    def cut(life: TunnelLife, core: TunnelCore) -> None:
        core.actions.cut()

    # The end.

    @closing.upon(TunnelLife.lost).to(closed)
    def gone(life: TunnelLife, core: TunnelCore, reason: str) -> None:
        finish(core, core.reason or reason)

    @idle.upon(TunnelLife.close).to(closed)
    def never_began(life: TunnelLife, core: TunnelCore, reason: str) -> None:
        core.by_us = True
        finish(core, reason)

    def finish(core: TunnelCore, reason: str) -> None:
        core.state = TunnelState.CLOSED
        core.stop_waiting()
        core.actions.ended(reason, core.by_us)

    @idle.upon(TunnelLife.drain_requested).to(closed)
    def never_needed(life: TunnelLife, core: TunnelCore, seconds: float) -> None:
        core.by_us = True
        finish(core, "not needed any longer")

    # What changes nothing: it is known already, or comes too late to matter.
    draining.upon(TunnelLife.drain_received).loop().returns(None)
    for state in (closing, closed):
        state.upon(TunnelLife.connected).loop().returns(None)
        state.upon(TunnelLife.host_accepted).loop().returns(None)
        state.upon(TunnelLife.authenticated).loop().returns(None)
        state.upon(TunnelLife.greeted).loop().returns(None)
        state.upon(TunnelLife.drain_received).loop().returns(None)
        state.upon(TunnelLife.drain_requested).loop().returns(None)
        state.upon(TunnelLife.drained).loop().returns(None)
        state.upon(TunnelLife.failed).loop().returns(None)
        state.upon(TunnelLife.close).loop().returns(None)
    closed.upon(TunnelLife.lost).loop().returns(None)

    return machine.build()


TunnelMachine = make_machine()
