"""The layers of the package: imports point down only, in every folder, and no modules import one another in a
circle.
"""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

LAYERS = """
    app __main__
    ui commands
    server
    search embedded
    load
    export evaluation
    comparison
    quantizers
    presets plots
    sampling
    settings
    models surfaces quantized_models
    scoring
    hub
    quantization schedulers prompts
    words quiet version
"""
"""From the top down. A folder (or file) of qsched may import what stands in a lower line, and nothing else of
qsched.
"""

INSIDE = {
    "ui": (
        "page",
        "about_tab api stage",
        "search",
        "compare",
        "events preview starting streams theme",
        "values widgets images fragments visitors",
        "errors",
    ),
    "embedded": ("__main__", "options export variety", "report", "denoiser", "judges", "training", "data"),
}
"""The same for what stands in one folder."""

ALLOWED = {("qsched.__init__", "qsched.load"): "load_backbone is the package's face, loaded when asked for"}
"""Arrows that point up all the same, each with its reason."""


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


FILES = {name_of(path): path for path in [*(ROOT / "qsched").rglob("*.py"), ROOT / "app.py"]}


def imports(name: str, *, running: bool) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every module of qsched that a file imports.

    running: only what is imported while the file itself is, so nothing inside functions or for type checkers.
    """
    pending: list[ast.AST] = [ast.parse(FILES[name].read_text())]
    while pending:
        node = pending.pop()
        lazy = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if running and (lazy or typing):
            continue
        pending.extend(ast.iter_child_nodes(node))
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(name.split(".")[: -node.level]) if node.level else ""
            source = ".".join(part for part in (base, node.module) if part)
            found = [f"{source}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from ((node.lineno, module(one)) for one in found if one.split(".")[0] == "qsched")


def module(dotted: str) -> str:
    """The file that an imported name lies in."""
    while dotted not in FILES and f"{dotted}.__init__" not in FILES:
        dotted = dotted.rpartition(".")[0]
    return dotted if dotted in FILES else f"{dotted}.__init__"


def ranks(lines: list[str]) -> dict[str, int]:
    return {name: rank for rank, line in enumerate(lines) for name in line.split()}


def upward(prefix: str, order: dict[str, int]) -> list[str]:
    """The imports between parts of a folder that do not point down, one sentence each."""
    wrong = []
    for name in FILES:
        inside = name.removeprefix(prefix)
        part = inside.split(".")[0]
        if not name.startswith(prefix) or part == "__init__":
            continue
        if part not in order:
            wrong.append(f"{name} has no place in the table of layers")
            continue
        for line, target in imports(name, running=False):
            other = target.removeprefix(prefix).split(".")[0]
            if not target.startswith(prefix) or other in (part, "__init__") or (name, target) in ALLOWED:
                continue
            if order.get(other, -1) <= order[part]:
                wrong.append(
                    f"{FILES[name].relative_to(ROOT)}:{line} imports {target}, which is not below "
                    f"{prefix}{part}"
                )
    return wrong


def test_every_import_points_down():
    wrong = upward("qsched.", ranks(LAYERS.split("\n")))
    assert not wrong, "\n".join(wrong)


def test_every_import_points_down_inside_the_large_folders():
    wrong = [
        line for folder, lines in INSIDE.items() for line in upward(f"qsched.{folder}.", ranks(list(lines)))
    ]
    assert not wrong, "\n".join(wrong)


def test_no_modules_import_one_another_in_a_circle():
    graph = {name: {target for _, target in imports(name, running=True)} - {name} for name in FILES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError("imported in a circle: " + " -> ".join(error.args[1])) from None


def test_the_app_ships_without_what_makes_the_embedded_model():
    for name in FILES:
        if not name.startswith("qsched.embedded"):
            found = [
                f"{name}:{line}"
                for line, target in imports(name, running=False)
                if ".embedded." in f"{target}."
            ]
            assert not found, found


def test_faces_hold_no_code_but_that_of_what_can_be_lifted_out():
    for name, path in FILES.items():
        if name.endswith(".__init__") and name not in (
            f"qsched.{folder}.__init__" for folder in ("quantization", "scoring")
        ):
            names = {type(node).__name__ for node in ast.parse(path.read_text()).body}
            assert name == "qsched.__init__" or names <= {"Expr"}, name


def test_the_exceptions_are_still_needed():
    for name, target in ALLOWED:
        assert target in {other for _, other in imports(name, running=False)}, (name, target)
