"""Figures of the package as a house: its size, its folders, and the way of one scene through its modules.

    python examples/package_figures.py                        # this checkout
    python examples/package_figures.py /path/to/other/checkout

The way of a scene is followed in the source: from `predict_scene`, every function that is called for the first
time, in the order of the lines, depth first. A module is entered when the first of its functions is called;
coming from another module into one that was entered before counts as a return. Calls are resolved where a name,
an import, `self`, or the class of an annotated or constructed variable says what is called.
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

PACKAGE = "rsprompter_cli"
ABOVE_THE_PARTS = ("predict", "cli")
"""Folders whose modules the walk counts; models and geo are the parts that a scene is worked on with."""


@dataclass
class Module:
    """A module: its functions and methods by qualified name, and what its imports mean."""

    name: str
    tree: ast.Module
    functions: dict[str, ast.FunctionDef] = field(default_factory=dict)
    imports: dict[str, tuple[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for node in self.tree.body:
            if isinstance(node, ast.FunctionDef):
                self.functions[node.name] = node
            elif isinstance(node, ast.ClassDef):
                methods = [part for part in node.body if isinstance(part, ast.FunctionDef)]
                self.functions |= {f"{node.name}.{part.name}": part for part in methods}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE):
                self.imports |= {alias.asname or alias.name: (str(node.module), alias.name) for alias in node.names}


def read_modules(root: Path) -> dict[str, Module]:
    """The modules of a checkout by dotted name."""
    found = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        found[name] = Module(name, ast.parse(path.read_text(encoding="utf-8")))
    return found


class Walk:
    """The way of a call through modules."""

    def __init__(self, modules: dict[str, Module]) -> None:
        """Nothing has been called yet."""
        self.modules, self.entered, self.returns = modules, [], 0
        self._called: set[tuple[str, str]] = set()

    def call(self, module: str, function: str, caller: str | None = None) -> None:
        """Follow a function, and all that it calls, unless it was followed before."""
        node = self.modules[module].functions.get(function)
        if node is None or (module, function) in self._called:
            return
        self._called.add((module, function))
        if module.split(".")[1] in ABOVE_THE_PARTS:
            if module not in self.entered:
                self.entered.append(module)
            elif caller is not None and caller != module:
                self.returns += 1
        classes = self._classes(module, function, node)
        calls = [part for part in ast.walk(node) if isinstance(part, ast.Call)]
        for part in sorted(calls, key=lambda one: (one.lineno, one.col_offset)):
            for target in self._targets(module, function, part.func, classes):
                self.call(*target, caller=module)

    def _classes(self, module: str, function: str, node: ast.FunctionDef) -> dict[str, tuple[str, str]]:
        """What class the variables of a function have, as far as it says so."""
        found: dict[str, tuple[str, str]] = {}
        for argument in [*node.args.args, *node.args.kwonlyargs]:
            for part in ast.walk(argument.annotation) if argument.annotation else ():
                if isinstance(part, ast.Name) and (known := self._find(module, part.id)):
                    found[argument.arg] = known
        for part in ast.walk(node):
            if isinstance(part, ast.Assign) and isinstance(part.value, ast.Call | ast.BoolOp):
                made = [one for one in ast.walk(part.value) if isinstance(one, ast.Call)]
                name = made[0].func.id if made and isinstance(made[0].func, ast.Name) else ""
                if (known := self._find(module, name)) and isinstance(part.targets[0], ast.Name):
                    found[part.targets[0].id] = known
            elif isinstance(part, ast.withitem) and isinstance(part.optional_vars, ast.Name):
                name = (
                    part.context_expr.func.id
                    if isinstance(part.context_expr, ast.Call) and isinstance(part.context_expr.func, ast.Name)
                    else ""
                )
                if known := self._find(module, name):
                    found[part.optional_vars.id] = known
        if "." in function:
            found["self"] = (module, function.split(".")[0])
        return found

    def _find(self, module: str, name: str) -> tuple[str, str] | None:
        """The module and name behind a name of a module of this package."""
        if any(key == name or key.startswith(f"{name}.") for key in self.modules[module].functions):
            return module, name
        origin = self.modules[module].imports.get(name)
        return origin if origin is not None and origin[0] in self.modules else None

    def _targets(
        self, module: str, function: str, called: ast.expr, classes: dict[str, tuple[str, str]]
    ) -> list[tuple[str, str]]:
        if isinstance(called, ast.Name) and (known := self._find(module, called.id)):
            where, name = known
            return [known, (where, f"{name}.__init__"), (where, f"{name}.__enter__"), (where, f"{name}.__exit__")]
        if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name) and called.value.id in classes:
            where, name = classes[called.value.id]
            return [(where, f"{name}.{called.attr}")]
        return []


def imported_by_predict(root: Path) -> tuple[int, float]:
    """Modules of the package that are loaded for a prediction, and the seconds that it takes (best of three)."""
    code = (
        "import sys; import rsprompter_cli.cli.app, rsprompter_cli.cli.predict, rsprompter_cli.predict.scene;"
        "print(sum(name.startswith('rsprompter_cli') for name in sys.modules))"
    )
    best, loaded = float("inf"), 0
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
        best, loaded = min(best, time.perf_counter() - start), int(done.stdout)
    return loaded, best


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("root", type=Path, nargs="?", default=Path(__file__).resolve().parents[1])
    root = parser.parse_args().root.resolve()
    files = sorted((root / PACKAGE).rglob("*.py"))
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    plain = [path for path in files if path.name != "__init__.py"]
    per_folder = Counter(path.parent.relative_to(root).as_posix() for path in files)
    print(f"lines of the package          {sum(lengths.values()):,}")
    mean = sum(lengths[path] for path in plain) / len(plain)
    print(f"modules without __init__.py   {len(plain)}, {mean:.0f} lines each")
    fullest = ", ".join(f"{name} {count}" for name, count in per_folder.most_common(5))
    print(f"files in the fullest folders  {fullest}")
    modules = read_modules(root)
    users = Counter(name for module in modules.values() for name in {where for where, _ in module.imports.values()})
    print(f"modules with a single user    {sum(users[name] == 1 for name in modules)}")
    walk = Walk(modules)
    walk.call(f"{PACKAGE}.predict.scene", "predict_scene")
    above = " and ".join(ABOVE_THE_PARTS)
    print(f"the way of a scene            {len(walk.entered)} modules of {above}, {walk.returns} returns")
    print("                              " + ", ".join(name.removeprefix(f"{PACKAGE}.") for name in walk.entered))
    loaded, seconds = imported_by_predict(root)
    print(f"loaded by rsp predict         {loaded} modules of the package in {seconds:.1f} s")


if __name__ == "__main__":
    main()
