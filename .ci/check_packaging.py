"""Build the sdist and the wheel, and install both ways in every Python that is here.

In each environment, from a directory that is not the checkout, ``twistd --help`` must
list our plugins: after the wheel, after it is gone (Twisted must survive that), and
after an editable install. The checkout is copied first and stays as it is.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

VERSIONS = ("3.11", "3.12", "3.13")
PLUGINS = ("rtunnel-proxy", "rtunnel-agent")
#: Directories of the checkout that no build reads.
NOT_COPIED = (".git", ".tox", ".venv", ".mypy_cache", "_trial_temp*", "*.egg-info")


def run(*command: str | Path, cwd: Path) -> str:
    """Return the standard output of a command; show all its output if it fails."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "PYTHONWARNINGS")
    }
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.returncode:
        print(done.stdout)
        raise SystemExit(f"failed: {' '.join(map(str, command))}")
    return done.stdout


def expect(condition: bool, what: str) -> None:
    """End with one sentence unless `condition` holds."""
    if not condition:
        raise SystemExit(f"packaging: {what}")


def check_archives(dist: Path) -> Path:
    """Look into the sdist and the wheel; return the wheel."""
    (wheel,) = dist.glob("*.whl")
    (sdist,) = dist.glob("*.tar.gz")
    inside = zipfile.ZipFile(wheel).namelist()
    for needed in ("rtunnel/py.typed", "twisted/plugins/rtunnel_plugin.py"):
        expect(needed in inside, f"the wheel has no {needed}")
    for name in inside:
        expect(name.split("/")[0] != "tests", f"the wheel ships {name}")
        # It would replace Twisted's own file, and be deleted with us.
        expect(
            name not in ("twisted/__init__.py", "twisted/plugins/__init__.py"),
            f"the wheel ships {name}",
        )
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for needed in ("tests/__init__.py", "LICENSE", "Makefile", "tox.ini", ".ci/run"):
        expect(needed in names, f"the sdist has no {needed}")
    for schema in Path("rtunnel/registry/schema").glob("*.sql"):
        expect(str(schema) in inside, f"the wheel has no {schema}")
    return wheel


def check_commands(binaries: Path, neutral: Path, how: str) -> None:
    """Both plugins are listed, and the console script starts."""
    listed = run(binaries / "twistd", "--help", cwd=neutral)
    for plugin in PLUGINS:
        expect(plugin in listed, f"twistd --help lists no {plugin} after {how}")
    expect("Traceback" not in listed, f"a plugin does not load after {how}:\n{listed}")
    run(binaries / "rtunnel", "--help", cwd=neutral)


def check_installs(version: str, wheel: Path, source: Path, work: Path) -> bool:
    """Install both ways in a new environment; False when there is no such Python."""
    environment = work / f"env-{version}"
    made = subprocess.run(
        [sys.executable, "-m", "virtualenv", "-q", "-p", version, str(environment)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    if made.returncode:
        print(f"Python {version}: not here")
        return False
    binaries, neutral = environment / "bin", work / "neutral"
    neutral.mkdir(exist_ok=True)
    pip = (binaries / "python", "-m", "pip", "--quiet")
    run(*pip, "install", wheel, cwd=neutral)
    check_commands(binaries, neutral, "pip install .")
    run(*pip, "uninstall", "--yes", "rtunnel", cwd=neutral)
    listed = run(binaries / "twistd", "--help", cwd=neutral)
    expect("rtunnel" not in listed, "pip uninstall leaves plugins behind")
    run(*pip, "install", "--no-deps", "--editable", source, cwd=neutral)
    check_commands(binaries, neutral, "pip install -e .")
    print(f"Python {version}: wheel and editable install list {', '.join(PLUGINS)}")
    return True


def main() -> None:
    """Check all of it in one temporary directory."""
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        source = work / "source"
        shutil.copytree(".", source, ignore=shutil.ignore_patterns(*NOT_COPIED))
        dist = work / "dist"
        run(sys.executable, "-m", "build", "-o", dist, cwd=source)
        wheel = check_archives(dist)
        found = [check_installs(each, wheel, source, work) for each in VERSIONS]
        expect(any(found), f"none of Python {', '.join(VERSIONS)} is here")


if __name__ == "__main__":
    main()
