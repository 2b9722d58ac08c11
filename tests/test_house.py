"""Rules of the house that no single module can keep: layering, start-up, size, words, documents."""

from __future__ import annotations

import ast
import functools
import graphlib
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from rsprompter_cli import errors
from tests.conftest import ROOT

PACKAGE = ROOT / "rsprompter_cli"
ORDER = [
    "cli", "doctor", "train", "evaluate", "predict", "models", "data", "geo", "draw", "io", "structures", "config",
    "documents", "errors",
]  # fmt: skip
"""Each package imports itself and what stands to its right, never what stands to its left."""

FOLDERS = {
    "geo": ["stitch", "vector", "raster"],
    "geo.raster": ["radiometry", "formats"],
    "geo.vector": ["formats"],
    "io": ["network", "model_files"],
    "data": ["tiles", "convert", "coco"],
    "models": ["zero_shot", "original", "onnx", "builders", "architectures", "sam", "cpu", "layers"],
    "predict": ["prompts", "backends", "output", "store"],
    "train": ["finetune", "distributed"],
}
"""The folders of a package, in the same order: each imports itself and those to its right."""

SOURCES = sorted(PACKAGE.rglob("*.py"))
MAX_FILES_PER_FOLDER = 15
MAX_FILE_LINES = 600
MAX_BODY_LINES = 60

# Spelled apart, so that this file does not find itself.
FORBIDDEN_WORDS = ["Not" + "ImplementedError", "TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK", "mm" + "cv.ops"]
FORK_ONLY = {
    "os.fork", "os.forkpty", "os.killpg", "os.setsid", "os.getuid", "os.geteuid", "os.sched_getaffinity",
    "signal.SIGKILL", "signal.SIGALRM", "signal.alarm", "signal.SIGUSR1", "signal.SIGUSR2", "signal.pause",
}  # fmt: skip
UNIX_MODULES = {"fcntl", "resource", "pwd", "grp", "termios", "pty", "tty", "posix", "syslog"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported_modules(path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import in a file, those in functions and for type checkers included."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}:{node.lineno}: a relative import hides its layer"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def functions_of(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = parsed(path)
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def lines_that_ask_for_the_platform(path: Path) -> set[int]:
    """Lines of functions that look at the platform, where a Unix-only module may be imported."""
    asking = [node for node in functions_of(path) if {"sys.platform", "os.name"} & dotted_names(node)]
    return {line for node in asking for line in range(node.lineno, (node.end_lineno or 0) + 1)}


def dotted_names(tree: ast.AST) -> set[str]:
    """Every `name.attribute` below a node."""
    attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    return {f"{node.value.id}.{node.attr}" for node in attributes if isinstance(node.value, ast.Name)}


def body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without signature and docstring, which grow with its options, not its logic."""
    statements = node.body[1:] if ast.get_docstring(node) else node.body
    return (node.end_lineno or 0) - statements[0].lineno + 1 if statements else 0


def layer_of(dotted: str) -> str | None:
    parts = dotted.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "rsprompter_cli" and parts[1] in ORDER else None


def test_every_part_of_the_package_has_a_place_in_the_order() -> None:
    parts = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert parts - {"__init__", "__main__"} == set(ORDER)


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_go_right(path: Path) -> None:
    relative = path.relative_to(PACKAGE)
    own = relative.parts[0].removesuffix(".py")
    if own not in ORDER:
        return  # __init__ and __main__ stand above all.
    wrong = [
        f"{name_of(path)}:{line} imports {dotted}"
        for line, dotted in imported_modules(path)
        if (layer := layer_of(dotted)) is not None and ORDER.index(layer) < ORDER.index(own)
    ]
    assert wrong == []


def test_every_folder_of_a_package_has_a_place_in_its_order() -> None:
    found: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("__init__.py"):
        *above, own = path.parent.relative_to(PACKAGE).parts or ("",)
        if above:
            found.setdefault(".".join(above), set()).add(own)
    assert found == {package: set(folders) for package, folders in FOLDERS.items()}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_between_the_folders_of_a_package_go_right(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[:-1]
    wrong = []
    for line, dotted in imported_modules(path):
        parts = dotted.split(".")[1:] if dotted.startswith("rsprompter_cli.") else []
        shared = next((n for n, (a, b) in enumerate(zip(own, parts, strict=False)) if a != b), None)
        order = FOLDERS.get(".".join(own[:shared])) if shared else None
        if order and parts[shared] in order and order.index(parts[shared]) < order.index(own[shared]):
            wrong.append(f"{name_of(path)}:{line} imports {dotted}")
    assert wrong == []


def test_no_module_imports_itself_over_others() -> None:
    modules = {path.relative_to(ROOT).with_suffix("").as_posix().replace("/", "."): path for path in SOURCES}
    imports = {
        name: {found for _, dotted in imported_modules(path) for found in (dotted, dotted.rpartition(".")[0])}
        & modules.keys()
        for name, path in modules.items()
    }
    with pytest.raises(graphlib.CycleError):  # the sorter itself
        graphlib.TopologicalSorter({"a": {"b"}, "b": {"a"}}).prepare()
    graphlib.TopologicalSorter(imports).prepare()


@pytest.mark.parametrize("folder", sorted({path.parent for path in SOURCES}), ids=name_of)
def test_folders_hold_few_files(folder: Path) -> None:
    # Of the commands each has a file.
    assert folder.name == "cli" or len(list(folder.glob("*.py"))) <= MAX_FILES_PER_FOLDER


def test_the_layer_check_sees_a_wrong_import(tmp_path: Path) -> None:
    source = tmp_path / "x.py"
    source.write_text("def f():\n    from rsprompter_cli.cli.output import print_json\n", encoding="utf-8")
    assert [layer_of(dotted) for _, dotted in imported_modules(source)] == ["cli"]


def test_one_door_reads_vector_files_and_one_writes_them() -> None:
    libraries = {"pyogrio", "pyarrow", "fiona", "geopandas"}
    users = {path for path in SOURCES for _, dotted in imported_modules(path) if dotted.split(".")[0] in libraries}
    checks = (f"formats/{name}.py" for name in ("parquet", "parquet_pages", "source", "limits"))
    assert users == {PACKAGE / "geo/vector" / name for name in (*checks, "read.py", "read_back.py", "tables.py")}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_no_private_or_unix_only_imports(path: Path) -> None:
    guarded = lines_that_ask_for_the_platform(path)
    wrong = [
        f"{name_of(path)}:{line} {dotted}"
        for line, dotted in imported_modules(path)
        if dotted.split(".")[0] == "click"
        or dotted.startswith("typer._")
        or (dotted.split(".")[0] in UNIX_MODULES and line not in guarded)
    ]
    assert wrong == []


def test_few_files_know_of_other_processes() -> None:
    knowing = {
        name_of(path)
        for path in SOURCES
        for _, dotted in imported_modules(path)
        if dotted.startswith(("torch.distributed", "torch.nn.parallel", "deepspeed", "accelerate"))
    }
    files = ("processes", "launch", "ddp", "deepspeed")
    assert knowing == {f"rsprompter_cli/train/distributed/{name}.py" for name in files}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_no_fork_only_calls(path: Path) -> None:
    tree = parsed(path)
    assert dotted_names(tree) & FORK_ONLY == set()
    contexts = [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("get_context", "set_start_method"))
    ]
    assert [call for call in contexts if "fork" in call] == []


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_files_and_functions_stay_readable(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_FILE_LINES
    lengths = {node.name: body_lines(node) for node in functions_of(path)}
    long = {name: lines for name, lines in lengths.items() if lines > MAX_BODY_LINES}
    assert long == {}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_nothing_is_left_for_later(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert [word for word in FORBIDDEN_WORDS if word in text] == []


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_every_module_says_what_it_is_for(path: Path) -> None:
    tree = parsed(path)
    assert ast.get_docstring(tree), f"{name_of(path)} has no docstring"


def imports_in_text(text: str) -> Iterator[tuple[str, str]]:
    """(module, name) of what a page or a program in a string imports from the package, and dotted names in text."""
    for module, names in re.findall(r"from (rsprompter_cli[.\w]*) import ([\w, ]+)", text):
        yield from ((module, part.split(" as ")[0].strip()) for part in names.split(",") if part.strip())
    for dotted in re.findall(r"rsprompter_cli(?:\.[a-z][a-z_0-9]*)+", text):
        yield dotted.rsplit(".", 1)[0], dotted.rsplit(".", 1)[1]


def has_name(module: str, name: str) -> bool:
    """Whether a module, or one that it is part of, is there and knows a name."""
    base = ROOT / module.replace(".", "/")
    if base.is_dir() and ((base / name).is_dir() or (base / f"{name}.py").is_file()):
        return True
    path = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
    if path.is_file():
        return re.search(rf"\b{name}\b", path.read_text(encoding="utf-8")) is not None
    parent, _, last = module.rpartition(".")
    return bool(parent) and has_name(parent, last)


def test_examples_pages_and_programs_in_tests_import_what_there_is() -> None:
    pages = [*documents(), *(ROOT / "examples").rglob("*.py"), *(ROOT / "examples").rglob("*.ipynb")]
    pages += [path for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__)]
    unknown = [
        f"{name_of(path)}: {module}.{name}"
        for path in pages
        if path.name != "CHANGELOG.md"
        for module, name in imports_in_text(path.read_text(encoding="utf-8"))
        if not has_name(module, name)
    ]
    assert set(unknown) <= {"tests/cli/test_output.py: rsprompter_cli.somewhere"}


def test_no_junk_drawer() -> None:
    drawers = {"utils.py", "util.py", "helpers.py", "helper.py", "misc.py", "common.py"}
    assert [name_of(path) for path in SOURCES if path.name in drawers] == []


def test_top_level_names_are_defined_once_per_file() -> None:
    twice = []
    for path in SOURCES:
        tree = parsed(path)
        names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
        twice += [f"{name_of(path)}: {name}" for name in set(names) if names.count(name) > 1]
    assert twice == []


WALK_HELP = """
import contextlib, io, sys
import typer
from rsprompter_cli.cli.app import app, run

def paths(command, path):
    yield path
    for name, child in getattr(command, "commands", {}).items():
        yield from paths(child, [*path, name])

heavy = "torch torchvision numpy transformers rasterio geopandas shapely pandas".split()
heavy += "scipy PIL pyproj pyogrio peft timm pycocotools tensorboard huggingface_hub".split()
heavy += ["rsprompter_cli.config"]  # its pydantic models take as long to build as all the rest
for path in [["--version"], *([*path, "--help"] for path in paths(typer.main.get_command(app), []))]:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = run(path)
    assert code == 0, (path, code)
    assert said.getvalue().strip(), path
    loaded = [name for name in heavy if name in sys.modules]
    assert not loaded, (path, loaded)
    print("ok", *path)
"""


def test_help_of_every_command_loads_no_heavy_module() -> None:
    done = subprocess.run([sys.executable, "-c", WALK_HELP], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    walked = done.stdout.splitlines()
    assert "ok --help" in walked
    assert "ok config show --help" in walked
    assert "ok predict --help" in walked


def test_importing_the_package_loads_no_heavy_module() -> None:
    code = "import rsprompter_cli, sys; assert not {'torch', 'numpy', 'rasterio'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_default_preset_in_the_help_is_the_one_taken() -> None:
    import typer

    from rsprompter_cli.cli.app import app
    from rsprompter_cli.config import DEFAULT_PRESET

    command = typer.main.get_command(app).commands["train"]
    assert [item.show_default for item in command.params if item.name == "preset"] == [DEFAULT_PRESET]


def load_generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["cli.md", "exit-codes.md"])
def test_generated_pages_are_current(page: str) -> None:
    written = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert written == load_generator().PAGES[page](), "run: python docs/generate.py"


def test_every_exit_code_is_documented_once() -> None:
    kinds = [errors.RspError, *errors.RspError.__subclasses__()]
    codes = [kind.exit_code for kind in kinds]
    assert len(set(codes)) == len(codes)
    page = (ROOT / "docs" / "exit-codes.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (\d+) \| `?(\w*)`? \|", page, flags=re.MULTILINE))
    assert rows == {"0": "", "130": "", "143": "", "129": ""} | {str(kind.exit_code): kind.__name__ for kind in kinds}


def documents() -> list[Path]:
    return [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_links_in_documents_resolve() -> None:
    broken = []
    for page in documents():
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if not re.match(r"https?://|mailto:|#", target) and not (page.parent / target.split("#")[0]).exists():
                broken.append(f"{name_of(page)}: {target}")
    assert broken == []


def test_commands_shown_in_documents_exist() -> None:
    import typer

    from rsprompter_cli.cli.app import app

    root = typer.main.get_command(app)
    unknown = []
    for page in documents():
        if page.name == "CHANGELOG.md":
            continue
        text = page.read_text(encoding="utf-8")
        for words in re.findall(r"(?:^|[\s/`])rsp ((?:[a-z0-9-]+ ?)+)", "\n".join(shown_lines(text))):
            command = root
            for word in words.split():
                children = getattr(command, "commands", None)
                if not children:
                    break
                if word not in children:
                    unknown.append(f"{name_of(page)}: rsp {words.strip()}")
                    break
                command = children[word]
    assert unknown == []


def shown_lines(text: str) -> list[str]:
    """Lines of code blocks, and inline code, of a Markdown text."""
    blocks = re.findall(r"```[a-z]*\n(.*?)```", text, flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines()] + re.findall(r"`(rsp [^`]+)`", text)


def test_readme_names_one_test_command() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    marked = re.findall(r"^(\S.*)  # test$", readme, flags=re.MULTILINE)
    assert len(marked) == 1, ".ci/run takes the test command from the line that ends in '  # test'"


def test_version_is_the_changelogs_newest() -> None:
    from rsprompter_cli import __version__

    log = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.findall(r"^## \[(\d[^\]]*)\]", log, flags=re.MULTILINE)
    assert released[:1] == [__version__]
