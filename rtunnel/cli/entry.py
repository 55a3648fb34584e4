"""The console script: quiet from its first moment when Ctrl-C ends it.

What the command needs takes a while to import, and whoever gives up then is not to see
a traceback. So nothing is imported here before that is taken care of.
"""

import sys

#: What shells report of a program that SIGINT has ended: 128 and its number.
INTERRUPTED = 130


def main() -> None:
    """Import the command and carry it out."""
    try:
        from rtunnel.cli.main import main as command

        command()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
