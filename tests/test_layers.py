"""The floors of the program: who may import whom."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).resolve().parent.parent

#: Lowest first. Each line may import from its own and from lower lines. A package
#: stands for all its modules, unless one of them has a place of its own.
FLOORS = (
    (
        "rtunnel",
        "rtunnel.errors",
        "rtunnel.wire",
        "rtunnel.naming",
        "rtunnel.counting",
        "rtunnel.timestamps",
        "rtunnel.socket_path",
        "rtunnel.ownership",
    ),
    (
        "rtunnel.discovery",
        "rtunnel.trust",
        "rtunnel.audit.fields",
        "rtunnel.audit.trust_events",
        "rtunnel.audit.events",
        "rtunnel.audit.chain",
        "rtunnel.audit.verification",
        "rtunnel.metrics",
        "rtunnel.status_text",
        "rtunnel.registry.records",
        "rtunnel.registry.interface",
        "rtunnel.registry.holder",
        "rtunnel.registry.followers",
    ),
    (
        "rtunnel.ssh",
        "rtunnel.registry",
        "rtunnel.splice",
        "rtunnel.tcp_stream",
        "rtunnel.direct_socket",
        "rtunnel.socket_buffers",
        "rtunnel.write_batch",
        "rtunnel.control",
        "rtunnel.config",
        "rtunnel.state_directory",
        "rtunnel.filling",
        "rtunnel.authority_files",
        "rtunnel.certified_key",
        "rtunnel.key_making",
        "rtunnel.renewal_timer",
        "rtunnel.trust_files",
        "rtunnel.resolution",
        "rtunnel.lookups",
        "rtunnel.happy_eyeballs",
        "rtunnel.target_dialer",
        "rtunnel.audit",
        "rtunnel.admin_client",
        "rtunnel.logging_format",
    ),
    ("rtunnel.agent", "rtunnel.proxy"),
    ("rtunnel.web",),
    ("rtunnel.tap", "rtunnel.cli"),
)
#: The floors that know bytes, values and decisions, and no Twisted.
PURE_FLOORS = 2
#: What only tests import; it may import anything.
FOR_TESTS = "rtunnel.testing"
#: Both sit on one floor, and what they share goes below it.
NEVER_EACH_OTHER = ("rtunnel.agent", "rtunnel.proxy")
#: Who may say ``from twisted.internet import reactor``.
WIRING = ("rtunnel.tap", "rtunnel.cli")
#: Names that say nothing about what is inside.
MEANINGLESS = ("utils", "util", "helpers", "helper", "manager", "common", "misc")

_FLOOR_OF = {unit: floor for floor, units in enumerate(FLOORS) for unit in units}


def is_inside(module: str, package: str) -> bool:
    """Tell whether `module` is `package` or something in it."""
    return module == package or module.startswith(package + ".")


def unit_of(module: str) -> str | None:
    """Return the entry of the table that speaks for a module of ours."""
    fitting = [
        unit
        for unit in _FLOOR_OF
        if module == unit or (unit != "rtunnel" and is_inside(module, unit))
    ]
    return max(fitting, key=len, default=None)


def imports_of(tree: ast.AST) -> Iterator[str]:
    """Yield the full name of everything that a module imports, at any depth.

    ``from a import b`` gives ``a.b``: b may be a module, and if it is not, a's own
    entry still speaks for it.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports hide which floor is meant"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def source_modules() -> Iterator[tuple[str, ast.AST]]:
    """Yield the name and the syntax tree of every module of the program."""
    for path in sorted((ROOT / "rtunnel").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        yield name, ast.parse(path.read_text(), str(path))


class UnitOfTests(SynchronousTestCase):
    """The reading of the table."""

    def test_module_with_a_place_of_its_own_leaves_the_floor_of_its_package(
        self,
    ) -> None:
        """The registry's interface is pure though its backends are not."""
        self.assertEqual(
            unit_of("rtunnel.registry.interface.Registry"),
            "rtunnel.registry.interface",
        )
        self.assertEqual(unit_of("rtunnel.registry.sqlite"), "rtunnel.registry")

    def test_unknown_module_has_no_floor(self) -> None:
        """The entry of the bare package does not speak for what lies in it."""
        self.assertIsNone(unit_of("rtunnel.novelty"))
        self.assertIsNone(unit_of("rtunnel.wired"))

    def test_imports_are_found_inside_functions(self) -> None:
        """An import that is put off until a call is an import all the same."""
        tree = ast.parse(
            "def f():\n    from rtunnel.proxy import sites\n    import os\n"
        )
        self.assertEqual(list(imports_of(tree)), ["rtunnel.proxy.sites", "os"])


class LayersTests(SynchronousTestCase):
    """What each module of the program imports, held against the table."""

    def setUp(self) -> None:
        self.modules = {
            name: sorted(set(imports_of(tree)))
            for name, tree in source_modules()
            if name != FOR_TESTS
        }
        self.assertIn("rtunnel.errors", self.modules)

    def test_every_module_has_a_floor(self) -> None:
        """A new top-level module must be given its place in the table."""
        homeless = [name for name in self.modules if unit_of(name) is None]
        self.assertEqual(homeless, [])

    def test_lower_floors_import_no_higher_ones(self) -> None:
        """Everything a module imports from us lies on its floor or below."""
        for name, imported in self.modules.items():
            for target in imported:
                unit = unit_of(target)
                if unit is None or (own := unit_of(name)) is None:
                    continue
                self.assertLessEqual(
                    _FLOOR_OF[unit], _FLOOR_OF[own], f"{name} imports {target}"
                )

    def test_pure_floors_import_no_twisted(self) -> None:
        """Bytes, values and decisions work without a reactor or its types."""
        for name, imported in self.modules.items():
            unit = unit_of(name)
            if unit is None or _FLOOR_OF[unit] >= PURE_FLOORS:
                continue
            for target in imported:
                self.assertFalse(
                    is_inside(target, "twisted") or is_inside(target, "zope"),
                    f"{name} imports {target}",
                )

    def test_agent_and_proxy_never_import_each_other(self) -> None:
        """What the two need both goes down a floor."""
        for name, imported in self.modules.items():
            for own, other in (NEVER_EACH_OTHER, NEVER_EACH_OTHER[::-1]):
                if is_inside(name, own):
                    for target in imported:
                        self.assertFalse(
                            is_inside(target, other), f"{name} imports {target}"
                        )

    def test_only_the_wiring_imports_the_global_reactor(self) -> None:
        """Everything else is handed its clock and its reactor."""
        for name, imported in self.modules.items():
            if not any(is_inside(name, package) for package in WIRING):
                self.assertNotIn("twisted.internet.reactor", imported, name)

    def test_nothing_of_the_program_imports_its_test_doubles(self) -> None:
        """rtunnel.testing is for tests."""
        for name, imported in self.modules.items():
            for target in imported:
                self.assertFalse(
                    is_inside(target, FOR_TESTS), f"{name} imports {target}"
                )

    def test_packages_do_not_depend_on_each_other_in_a_circle(self) -> None:
        """Units of one floor may import one another, but only one way."""
        graph: dict[str, set[str]] = {}
        for name, imported in self.modules.items():
            own = unit_of(name)
            for target in imported:
                unit = unit_of(target)
                if own and unit and unit != own:
                    graph.setdefault(own, set()).add(unit)
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            self.fail(" → ".join(error.args[1]))

    def test_names_of_modules_say_what_is_inside(self) -> None:
        """No module is called by a word that would fit any other as well."""
        for name in self.modules:
            self.assertFalse(set(name.split(".")) & set(MEANINGLESS), name)

    def test_packages_hold_only_docstring_and_names(self) -> None:
        """What a package's __init__.py does, a newcomer would look for elsewhere."""
        for name, tree in source_modules():
            if not (ROOT.joinpath(*name.split(".")) / "__init__.py").exists():
                continue
            assert isinstance(tree, ast.Module)
            for node in tree.body[1:]:
                self.assertIsInstance(
                    node,
                    (ast.ImportFrom, ast.Assign, ast.AnnAssign),
                    f"{name}/__init__.py line {node.lineno}",
                )


class PluginDirectoryTests(SynchronousTestCase):
    """The directory that is Twisted's as well as ours."""

    def test_twisted_namespace_has_no_init_file(self) -> None:
        """A wheel with one in it would overwrite Twisted's own, then delete it."""
        for directory in ("twisted", "twisted/plugins"):
            self.assertFalse((ROOT / directory / "__init__.py").exists(), directory)

    def test_plugin_file_imports_nothing_of_ours(self) -> None:
        """Every twistd on the machine imports it; modules are named as strings."""
        tree = ast.parse((ROOT / "twisted/plugins/rtunnel_plugin.py").read_text())
        self.assertEqual(
            [name for name in imports_of(tree) if is_inside(name, "rtunnel")], []
        )
