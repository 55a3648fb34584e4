"""Run trial over all of ``tests/`` but ``tests/interop``, or over what is asked for.

trial cannot leave a package out, and a list kept by hand would one day miss a new one.
Options and test names are those of trial.
"""

from __future__ import annotations

import sys
from pathlib import Path

from twisted.scripts.trial import run

TESTS = Path("tests")


def main() -> None:
    """Hand trial its arguments, with our tests where none are named."""
    # `python FILE` puts the directory of FILE first, `python -m` the current one.
    sys.path[0] = str(Path.cwd())
    if not any(not argument.startswith("-") for argument in sys.argv[1:]):
        sys.argv += sorted(
            str(path)
            for path in TESTS.iterdir()
            if (path / "__init__.py").exists() and path.name != "interop"
        )
        sys.argv += sorted(str(path) for path in TESTS.glob("test_*.py"))
    run()


if __name__ == "__main__":
    main()
