"""``rtunnel ca``: the authorities, and how they are exchanged."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from rtunnel.admin_client import AUTHORITIES_PATH, ask
from rtunnel.cli.options import duration, json_option, state_option
from rtunnel.cli.printing import shell_path, steps
from rtunnel.counting import counted
from rtunnel.errors import RotationRefused
from rtunnel.naming import printable
from rtunnel.state_directory import ADMIN_SOCKET
from rtunnel.status_text import table
from rtunnel.trust.bundle import ROLES, Phase

#: Seconds from one look to the next with ``--wait``.
LOOK_INTERVAL = 0.5

#: How many are named of those that are waited for.
MAX_NAMED = 3

#: What each phase means, and what to do before the next step.
_PHASES = {
    Phase.STEADY: ("One key is trusted and signs.", ""),
    Phase.TRUSTED: (
        "The new key is trusted beside the old one, which still signs.",
        "When `rtunnel ca status` names nobody, let the new key sign:",
    ),
    Phase.SIGNS: (
        "The new key signs; the old one is trusted still.",
        "When `rtunnel ca status` names nobody, trust the old key no longer:",
    ),
    Phase.RETIRED: (
        "The old key is no longer trusted.",
        "",
    ),
}

#: What people have to do, by authority and phase.
_PEOPLE = {
    ("host", Phase.TRUSTED): (
        "Before the next step, give people the two lines that `rtunnel ssh-config "
        "--only known-hosts` prints now."
    ),
    ("host", Phase.RETIRED): (
        "The line of the old key may be taken out of people's known_hosts."
    ),
    ("user", Phase.SIGNS): (
        "Certificates that the old key has signed are good until it is no longer "
        "trusted: wait until they have ended, or sign people's keys again."
    ),
}


@click.group()
def ca() -> None:
    """Show and exchange the authorities.

    Asks the running proxy of the state directory. To exchange an authority, that has to
    be the one that `rtunnel init` made, where the private keys are.
    """


@ca.command()
@click.argument("role", type=click.Choice(ROLES), metavar="host|agent|user")
@state_option
@click.option(
    "--to",
    type=click.Choice([phase.value for phase in Phase]),
    help="The phase to come to; when it is there already, nothing is done.",
)
@click.option("--back", is_flag=True, help="Go one phase back.")
@click.option(
    "--force",
    is_flag=True,
    help="Leave behind proxies and agents that have not followed yet.",
)
def rotate(role: str, state: Path, to: str | None, back: bool, force: bool) -> None:
    """Exchange an authority's key: one phase further with each call.

    The phases are: the new key is trusted; the new key signs; the old key is no longer
    trusted. No connection is closed. Refuses to go on while a proxy or an agent has not
    followed the phase before.
    """
    body = {"role": role, "to": to, "back": back, "force": force}
    done = ask(state / ADMIN_SOCKET, "POST", AUTHORITIES_PATH, body)
    authority = done["authority"]
    phase = Phase(authority["phase"])
    if done["before"] == phase.value:
        click.echo(f"The {role} authority is in phase {phase.value} already.")
        return
    meaning, following = _PHASES[phase]
    rotate_again, where = f"rtunnel ca rotate {role}", shell_path(state)
    click.echo(
        f"The {role} authority went from {done['before']} to {phase.value} "
        f"(generation {authority['generation']}). {meaning}"
    )
    if (role, phase) in _PEOPLE:
        click.echo(_PEOPLE[role, phase])
    if following:
        click.echo(steps((following, f"{rotate_again} --state {where}")))
    if phase is not Phase.STEADY:
        click.echo(steps(("Or go back:", f"{rotate_again} --back --state {where}")))


@ca.command()
@click.argument("id", metavar="AGENT|PROXY")
@state_option
def forget(id: str, state: Path) -> None:
    """Have no rotation wait for an agent or a proxy that is gone for good.

    AGENT or PROXY is its id, as `rtunnel ca status` shows it, or the beginning of it.
    Refuses for one that is connected. One that does come back is waited for again.
    """
    gone = ask(state / ADMIN_SOCKET, "DELETE", AUTHORITIES_PATH, {"id": id})
    click.echo(
        f"No rotation waits for {gone['kind']} {gone['id']} ({printable(gone['name'])})"
        f" any longer. It can come back until its certificate ends, "
        f"{gone['certificate_ends']}: revoke it if it must not."
    )


@ca.command()
@state_option
@json_option
@click.option(
    "--wait",
    type=duration,
    metavar="TIME",
    help="Wait until everybody has followed, at most so long: 30s, 5m.",
)
def status(state: Path, as_json: bool, wait: int | None) -> None:
    """Show where the authorities stand, and who has not followed yet."""
    deadline = time.monotonic() + (wait or 0)
    said = ""
    while True:
        document = ask(state / ADMIN_SOCKET, "GET", AUTHORITIES_PATH)
        behind = sum(
            len(each["not_followed"]) for each in document["authorities"].values()
        )
        if not behind or time.monotonic() >= deadline:
            break
        names = _behind_text(document)
        if names != said:
            rest = round(deadline - time.monotonic())
            click.echo(f"rtunnel: waiting for {names}, {rest} s at most", err=True)
            said = names
        time.sleep(LOOK_INTERVAL)
    if as_json:
        click.echo(json.dumps(document, indent=2))
    else:
        click.echo(status_text(document), nl=False)
    if wait is not None and behind:
        raise RotationRefused(
            f"{counted(behind, 'has', 'have')} not followed within "
            f"{counted(wait, 'second')}; wait longer with --wait, or see above what is "
            "missing"
        )


def _behind_text(document: Mapping[str, Any]) -> str:
    """Who has not followed, each once."""
    ones = {
        f"{one['kind']} {one['id']}": None
        for each in document["authorities"].values()
        for one in each["not_followed"]
    }
    more = len(ones) - MAX_NAMED
    return ", ".join([*ones][:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")


def status_text(document: Mapping[str, Any]) -> str:
    """The status as a table, and who has not followed below it."""
    authorities = document["authorities"]
    text = table(
        ("AUTHORITY", "PHASE", "GENERATION", "SIGNS", "NOT FOLLOWED"),
        [
            (
                role,
                each["phase"],
                str(each["generation"]),
                each["signs"] or "-",
                str(len(each["not_followed"])),
            )
            for role, each in authorities.items()
        ],
    )
    for role, each in authorities.items():
        for one in each["not_followed"]:
            text += (
                f"{role}: {one['kind']} {one['id']} ({printable(one['name'])}) "
                f"{' and '.join(map(printable, one['lacks']))}; seen {one['seen']}, "
                f"its certificate ends {one['certificate_ends']}\n"
            )
    return text + (_people_text(authorities["user"]) if "user" in authorities else "")


def _people_text(user: Mapping[str, Any]) -> str:
    """What has to be known of people before the old user authority is retired."""
    if user["phase"] != Phase.SIGNS.value:
        return ""
    people = user.get("people_of_other_keys", [])
    text = (
        "user: nobody keeps a list of people's certificates; those of the old key are "
        "good until it is retired. At this proxy, since it started, "
    )
    if not people:
        return text + "nobody has logged in who has no newer one.\n"
    names = ", ".join(printable(each["name"]) for each in people[:MAX_NAMED])
    more = len(people) - MAX_NAMED
    ends = [each["certificate_ends"] for each in people]
    last = "never" if None in ends else max(ends)
    return (
        f"{text}{counted(len(people), 'has', 'have')} logged in who "
        f"{'has' if len(people) == 1 else 'have'} no newer one: {names}"
        + (f" and {more} more" if more > 0 else "")
        + f"; the last of these ends {last}. Ask every proxy.\n"
    )
