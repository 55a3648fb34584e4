"""TOML written: :mod:`rtunnel.config.toml_text`."""

from __future__ import annotations

import tomllib
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.config.toml_text import COMMENT_COLUMN, render_document, render_value

VALUES = st.recursive(
    st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.datetimes()
    | st.dates()
    | st.times(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
    ),
    max_leaves=12,
)


class RenderTests(SynchronousTestCase):
    """What is written can be read again, and looks as docs/operations.md shows it."""

    @settings(deadline=None, max_examples=150)
    @given(st.dictionaries(st.text(), VALUES, max_size=5), st.text(max_size=5))
    def test_any_document_reads_back_as_it_was(
        self, data: dict[str, Any], comment: str
    ) -> None:
        """Whatever ``tomllib`` can give survives writing and reading."""
        comment = "".join(c for c in comment if c.isprintable())
        text = render_document(data, {key: comment for key in data})
        self.assertEqual(tomllib.loads(text), data)

    def test_plain_values_come_before_tables(self) -> None:
        """A key after a table would belong to the table."""
        text = render_document(
            {"t": {"b": [1]}, "a": 1, "r": [{"x": 1}, {"x": 2}], "i": {"k": 2}},
            {"a": "first", "t.b": "inner", "r": "rules"},
            inline=["i"],
        )
        self.assertEqual(
            text,
            "a = 1                            # first\n"
            "i = { k = 2 }\n"
            "\n"
            "[t]\n"
            "b = [1]                          # inner\n"
            "\n"
            "[[r]]                            # rules\n"
            "x = 1\n"
            "\n"
            "[[r]]                            # rules\n"
            "x = 2\n",
        )
        self.assertEqual(text.index("#"), COMMENT_COLUMN)

    def test_what_toml_lacks_is_refused(self) -> None:
        """There is no null in TOML."""
        self.assertRaises(TypeError, render_value, None)
