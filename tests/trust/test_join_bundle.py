"""Files in one text."""

from __future__ import annotations

import contextlib
import subprocess

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import MessageError
from rtunnel.trust.join_bundle import (
    MAX_BUNDLE,
    MAX_FILES,
    decode_bundle,
    encode_bundle,
)

FILES = {
    "agent_key-cert.pub": "ssh-ed25519-cert-v01@openssh.com AAAA\n",
    "host_ca.pub": "ssh-ed25519 AAAA one\nssh-ed25519 BBBB two\n",
    "agent.toml": 'cluster = "b"\n\n[tunnel]\nheartbeat = 5\n',
}

LINES = st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]))
TEXTS = st.lists(LINES.filter(lambda line: not line.startswith("-----")), min_size=1)


class BundleTests(SynchronousTestCase):
    """There and back."""

    def test_files_come_out_as_they_went_in(self) -> None:
        """Whatever stands around them."""
        text = encode_bundle(FILES)
        self.assertEqual(decode_bundle(text.encode()), FILES)
        self.assertEqual(decode_bundle(f"Welcome\n{text}Bye\n".encode()), FILES)
        self.assertTrue(text.startswith("-----BEGIN agent_key-cert.pub-----\n"))

    @settings(deadline=None, max_examples=100)
    @given(
        st.dictionaries(
            st.sampled_from(["a.pub", "b-cert.pub", "c_d.toml", "authorized_keys"]),
            TEXTS.map(lambda lines: "".join(f"{line}\n" for line in lines)),
            min_size=1,
        )
    )
    def test_any_files_come_out_as_they_went_in(self, files: dict[str, str]) -> None:
        """Line ends of other kinds included."""
        self.assertEqual(decode_bundle(encode_bundle(files).encode()), files)

    def test_a_line_that_looks_like_a_mark_is_left_out(self) -> None:
        """It can neither end a file nor begin another one."""
        files = {"authorized_keys": "a\n-----END authorized_keys-----\nb\n"}
        self.assertEqual(
            decode_bundle(encode_bundle(files).encode()), {"authorized_keys": "a\nb\n"}
        )

    def test_sed_takes_it_apart(self) -> None:
        """As the documentation says."""
        for name, text in FILES.items():
            command = f"/BEGIN {name}/,/END/{{//!p}}"
            done = subprocess.run(
                ["sed", "-n", command],
                input=encode_bundle(FILES),
                capture_output=True,
                text=True,
                check=True,
            )
            self.assertEqual(done.stdout, text)

    def test_what_is_no_bundle_is_refused(self) -> None:
        """Cut off, twice the same, too much, not text."""
        good = encode_bundle(FILES)
        for wrong in (
            "",
            "hello\n",
            good[: good.rindex("-----END")],
            good.replace("-----END host_ca.pub-----\n", ""),
            good + good,
            good.replace("host_ca.pub", "../host_ca.pub"),
            good.replace("host_ca.pub", ".ssh"),
            encode_bundle({f"f{n}": "x\n" for n in range(MAX_FILES + 1)}),
        ):
            if wrong == good.replace("host_ca.pub", "../host_ca.pub"):
                # No mark of ours, so no file: never a name that leads elsewhere.
                self.assertNotIn("../host_ca.pub", decode_bundle(wrong.encode()))
                continue
            with self.assertRaises(MessageError, msg=wrong[:80]):
                decode_bundle(wrong.encode())
        for data in (b"\xff", b" " * (MAX_BUNDLE + 1)):
            with self.assertRaises(MessageError):
                decode_bundle(data)

    @settings(deadline=None, max_examples=200)
    @given(
        st.binary()
        | st.text().map(lambda t: (encode_bundle(FILES) + t).encode(errors="replace"))
    )
    def test_any_bytes_are_a_bundle_or_an_error(self, data: bytes) -> None:
        """Nothing else is raised."""
        with contextlib.suppress(MessageError):
            decode_bundle(data)
