"""Public-key cryptography that is done once, so that a login in a script is cheap.

Nothing changes but the time that it takes: a signature, a verdict on one and the
answer to a public value are what they were the first time. A process has one key pair
for each key exchange method. With cookies and padding that are not random either, all
handshakes of the same kind are the same, and almost nothing is worked out twice.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

from rtunnel.wire import key_exchange
from rtunnel.wire.key_exchange import ClientKeyExchange, KeyExchangeAlgorithm
from rtunnel.wire.keys import PrivateKey, PublicKey

#: Answers of each function that are kept at a time.
MAX_REMEMBERED = 512


def remember_cryptography() -> None:
    """From now on, in this process."""
    for kind, method in ((PublicKey, "verify"), (PrivateKey, "sign")):
        setattr(kind, method, remembered(getattr(kind, method)))
    methods = cast(dict[bytes, KeyExchangeAlgorithm], key_exchange.KEY_EXCHANGES)
    for name, algorithm in methods.items():
        methods[name] = KeyExchangeAlgorithm(
            name, partial(_same, _Half(algorithm.start())), remembered(algorithm.answer)
        )


class _Half:
    """The client's half of every key exchange."""

    def __init__(self, half: ClientKeyExchange) -> None:
        self.public = half.public
        self.finish = remembered(half.finish)


def _same(half: _Half) -> _Half:
    return half


def remembered(function: Callable[..., Any]) -> Callable[..., Any]:
    """Call ``function`` only with arguments that are new; errors come anew."""
    answers: dict[tuple[object, ...], object] = {}

    def call(*arguments: object) -> object:
        if arguments not in answers:
            if len(answers) >= MAX_REMEMBERED:
                answers.clear()
            answers[arguments] = function(*arguments)
        return answers[arguments]

    return call
