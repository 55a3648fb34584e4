"""The command as a whole: its help, its errors and its exit codes."""

from __future__ import annotations

import re
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import click
from twisted.trial.unittest import TestCase

from rtunnel.cli.main import VERBS, rtunnel
from rtunnel.errors import ConfigError
from tests.cli.running import CommandTestCase
from tests.cli.running import rtunnel as run_rtunnel
from tests.interop.processes import environment

#: Modules that cost too much for a line of help.
HEAVY = ("twisted", "cryptography", "attrs", "cattrs", "rtunnel.wire")


class HelpTests(CommandTestCase):
    """``rtunnel --help``."""

    def test_names_every_verb(self) -> None:
        """Each with one line about it."""
        out = self.assert_done("--help")
        for verb, (_, text) in VERBS.items():
            self.assertRegex(out, rf"\n  {verb} +{text[:20]}")

    def test_imports_nothing_heavy(self) -> None:
        """Neither the reactor nor the cryptography: help is there at once."""
        loaded = subprocess.run(
            [
                sys.executable,
                "-c",
                "import sys; from rtunnel.cli.main import run; run(['--help']);"
                "print(*sys.modules)",
            ],
            capture_output=True,
            text=True,
            check=True,
            env=environment(),
        ).stdout.split()
        self.assertEqual([name for name in HEAVY if name in loaded], [])

    def test_says_the_same_as_the_verbs_themselves(self) -> None:
        """The table is kept apart from the commands, and must not drift."""
        context = click.Context(rtunnel)
        for name, (_, text) in VERBS.items():
            if name == "demo":
                continue
            command = rtunnel.get_command(context, name)
            assert command is not None
            self.assertEqual(command.name, name)
            self.assertEqual(command.get_short_help_str(200), text)

    def test_verbs_do_not_import_the_reactor(self) -> None:
        """Only the demo and joining need one; importing it installs a reactor for
        good."""
        verbs = [module.partition(":")[0] for module, _ in VERBS.values()]
        verbs.remove("rtunnel.cli.demo.command")
        verbs.remove("rtunnel.cli.join")
        subprocess.run(
            [
                sys.executable,
                "-c",
                f"import sys, {', '.join(verbs)};"
                "assert 'twisted.internet.reactor' not in sys.modules",
            ],
            check=True,
            env=environment(),
        )


class ExitCodeTests(CommandTestCase):
    """0 done, 1 refused or failed, 2 wrong usage; an error is one line."""

    def test_version(self) -> None:
        """Its own, and 0."""
        self.assertRegex(self.assert_done("--version"), r"^rtunnel [0-9.]+\n$")

    def test_unknown_verb_is_wrong_usage(self) -> None:
        """The verb that was probably meant is named."""
        self.assertIn("did you mean status?", self.assert_wrong_usage("statsu"))

    def test_unknown_option_is_wrong_usage(self) -> None:
        """The help to look into is named."""
        err = self.assert_wrong_usage("init", "--clutser", "a")
        self.assertIn("rtunnel init --help", err)

    def test_missing_option_is_wrong_usage(self) -> None:
        """It is named."""
        self.assertIn("--public", self.assert_wrong_usage("init", "--cluster", "a"))

    def test_verb_without_its_verb_is_wrong_usage(self) -> None:
        """The answer is the help, on standard error."""
        outcome = run_rtunnel("user")
        self.assertEqual((outcome.code, outcome.out), (2, ""))
        self.assertIn("Usage: rtunnel user", outcome.err)

    def test_every_problem_of_a_config_file_has_its_line(self) -> None:
        """They are given at once, so they can be mended at once."""
        self.init()
        path = self.state / "proxy.toml"
        path.write_text('cluster = "A"\n[ssh]\nlisten = 5\n')
        outcome = run_rtunnel("ssh-config", "--state", self.state)
        self.assertEqual((outcome.code, outcome.out), (1, ""))
        lines = outcome.err.splitlines()
        self.assertEqual(len(lines), 2)
        for line, key in zip(lines, ("cluster", "ssh.listen"), strict=True):
            self.assertTrue(line.startswith(f"rtunnel: {path}: {key}: "), line)

    def test_error_of_the_system_is_one_line(self) -> None:
        """It names the file."""

        def fail(**options: object) -> None:
            raise PermissionError(13, "Permission denied", "/x")

        def refuse(**options: object) -> None:
            raise ConfigError(["one", "two"])

        command = rtunnel.get_command(click.Context(rtunnel), "ls")
        assert command is not None
        self.patch(command, "callback", fail)
        self.assertEqual(self.assert_refused("ls"), "rtunnel: /x: Permission denied\n")
        self.patch(command, "callback", refuse)
        self.assertEqual(run_rtunnel("ls").err, "rtunnel: one\nrtunnel: two\n")


class StandardOutputTests(CommandTestCase):
    """What is printed has nowhere to go."""

    def version(self, redirection: str) -> tuple[int, str]:
        """``rtunnel --version`` with a redirection of the shell's."""
        python = sys.executable
        done = subprocess.run(
            ["sh", "-c", f'"$0" -m rtunnel.cli.main --version {redirection}', python],
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env=environment(),
        )
        return done.returncode, done.stderr

    def test_full_disk_is_one_line(self) -> None:
        """And the interpreter does not complain a second time at its end."""
        self.assertEqual(
            self.version("> /dev/full"),
            (
                1,
                "rtunnel: standard output cannot be written: No space left on device\n",
            ),
        )

    def test_closed_output_is_one_line(self) -> None:
        """Before anything is done that only the output would tell."""
        code, said = self.version(">&-")
        self.assertEqual(code, 1)
        self.assertRegex(said, r"\Artunnel: standard output is closed.*\n\Z")


class StateTests(CommandTestCase):
    """Which directory a verb works on."""

    def test_option_comes_first_then_the_environment_then_here(self) -> None:
        """``--state``, ``$RTUNNEL_STATE``, the current directory."""
        import os

        here, named, given = (self.directory / name for name in "abc")
        here.mkdir()
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(here)
        command = ("init", "--cluster", "a", "--public", "lb")
        self.assert_done(*command)
        self.assertTrue((here / "proxy.toml").exists())
        os.environ["RTUNNEL_STATE"] = str(named)
        self.assert_done(*command)
        self.assertTrue((named / "proxy.toml").exists())
        self.assert_done(*command, "--state", given)
        self.assertTrue((given / "proxy.toml").exists())


class InterruptedTests(TestCase):
    """Ctrl-C."""

    def test_it_is_quiet_while_the_command_is_imported(self) -> None:
        """No traceback: exit code 130, as of any program that SIGINT has ended."""
        # Whatever is imported first is where the signal comes.
        script = (
            "import os, signal, sys\n"
            "class Interrupting:\n"
            "    def find_spec(self, *arguments):\n"
            "        os.kill(os.getpid(), signal.SIGINT)\n"
            "from rtunnel.cli.entry import main\n"
            "sys.meta_path.insert(0, Interrupting())\n"
            "main()\n"
        )
        ended = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, env=environment()
        )
        self.assertEqual((ended.returncode, ended.stderr), (130, b""))

    def test_the_console_script_begins_with_nothing_heavy(self) -> None:
        """Else the signal would come before anybody could be quiet about it."""
        setup = ConfigParser()
        setup.read(Path(__file__).parents[2] / "setup.cfg")
        scripts = setup["options.entry_points"]["console_scripts"]
        (module,) = re.findall(r"^rtunnel = (.*):main$", scripts, re.MULTILINE)
        loaded = subprocess.run(
            [
                sys.executable,
                "-c",
                f"import {module}, sys; print(*sys.modules)",
            ],
            capture_output=True,
            text=True,
            check=True,
            env=environment(),
        ).stdout.split()
        self.assertEqual([n for n in (*HEAVY, "click") if n in loaded], [])
