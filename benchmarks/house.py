"""`python -m benchmarks.house`: measure the layout of the two packages, from their real imports and functions.

`--check` exits 1 on a circle of imports, one that goes up, a function over 40 lines or with more than 6 parameters.
`--picture` prints the folders and their imports as a Mermaid graph, as docs/architecture.md holds it.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("extract", "heads")
MOST_LINES, MOST_PARAMETERS = 40, 6
# from the ground up: a folder, or a file on the top level, imports only itself and what stands before it
ORDER = (
    *("extract.ground", "extract.recipe", "extract.images", "extract.tables", "extract.files", "extract.backbones"),
    *("extract.store", "extract.flags", "extract.workspace", "extract.demo", "extract.embed", "extract.run"),
    *("extract.shards", "extract.link_tree", "extract.__main__", "heads.stats", "heads.menu"),
    *("heads.data", "heads.ship", "heads.scored", "heads.train", "heads.compare", "heads.review", "heads.__main__"),
)
Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def files() -> dict[str, Path]:
    """Map each module's dotted name to its file, `__init__` aside."""
    found = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if path.stem != "__init__")
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in found}


@cache
def trees() -> dict[str, ast.Module]:
    """Map each module to its syntax tree."""
    return {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in files().items()}


def imports_of(tree: ast.Module) -> set[str]:
    """Return every name that a module imports, at its top, inside functions and under TYPE_CHECKING."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@cache
def arrows() -> dict[str, set[str]]:
    """Map each module to the modules of ours that it imports."""
    return {name: (imports_of(tree) & files().keys()) - {name} for name, tree in trees().items()}


def room(module: str) -> str:
    """Return the entry of ORDER that a module belongs to: its folder, or itself on the top level."""
    return next(each for each in ORDER if f"{module}.".startswith(f"{each}."))


def upward() -> set[tuple[str, str]]:
    """Return the imports that go up: (importing module, imported module)."""
    place = {name: ORDER.index(room(name)) for name in files()}
    return {(here, there) for here, found in arrows().items() for there in found if place[there] > place[here]}


def reachable(name: str, graph: dict[str, set[str]]) -> set[str]:
    """Return what a node leads to, itself only where it lies on a circle."""
    seen: set[str] = set()
    stack = [name]
    while stack:
        fresh = graph[stack.pop()] - seen
        seen |= fresh
        stack += fresh
    return seen


def circles() -> set[str]:
    """Return the modules that import themselves in the end."""
    return {name for name in files() if name in reachable(name, arrows())}


def rooms(package: str) -> dict[str, set[str]]:
    """Map each room of a package to the rooms of it that it imports."""
    graph: dict[str, set[str]] = {room(name): set() for name in files() if name.startswith(package)}
    for here, found in arrows().items():
        if here.startswith(package):
            graph[room(here)] |= {room(there) for there in found if there.startswith(package)} - {room(here)}
    return graph


def levels(graph: dict[str, set[str]]) -> int:
    """Return how many rooms stand above each other; 0 where there is a circle."""
    if any(name in reachable(name, graph) for name in graph):
        return 0

    def height(name: str) -> int:
        return 1 + max(map(height, graph[name]), default=0)

    return max(map(height, graph))


def functions() -> Iterable[tuple[str, Function]]:
    """Yield each function with the name of its module."""
    for name, tree in trees().items():
        yield from ((name, node) for node in ast.walk(tree) if isinstance(node, Function))


def long() -> list[str]:
    """Return the functions over MOST_LINES, signature and docstring counted."""
    sizes = [(f"{name}.{node.name}", (node.end_lineno or 0) - node.lineno + 1) for name, node in functions()]
    return [f"{name} {lines}" for name, lines in sizes if lines > MOST_LINES]


def wide() -> list[str]:
    """Return the functions with more than MOST_PARAMETERS parameters, self and cls aside."""
    return [f"{name}.{node.name} {n}" for name, node in functions() if (n := _parameters(node)) > MOST_PARAMETERS]


def _parameters(node: Function) -> int:
    named = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return len([arg for arg in named if arg.arg not in ("self", "cls")])


def loose() -> int:
    """Count `dict[str, Any]` in signatures."""
    signatures = [ast.unparse(node.args) + ast.unparse(node.returns or ast.Constant(0)) for _, node in functions()]
    return sum(text.count("dict[str, Any]") for text in signatures)


def lines() -> int:
    """Count the product's lines: Python, JavaScript, HTML, CSS and templates of both packages."""
    suffixes = (".py", ".js", ".html", ".css", ".j2")
    found = (path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.suffix in suffixes)
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in found)


def picture() -> str:
    """Return the rooms and their imports as a Mermaid graph; an arrow that others imply is left out."""
    graph = {name: found for package in PACKAGES for name, found in rooms(package).items() if "__main__" not in name}
    text = ["graph BT"]
    for name, found in graph.items():
        direct = {each for each in found if not any(each in reachable(other, graph) for other in found - {each})}
        text += [f"  {name} --> {each}" for each in sorted(direct)]
    return "\n".join(text)


def report() -> bool:
    """Print all measures; return whether the layout holds."""
    for package in PACKAGES:
        graph = rooms(package)
        count = sum(map(len, graph.values()))
        print(f"{package:<8} {len(graph)} rooms on {levels(graph)} levels, {count} imports between them")
    faults = {"imports that go up": sorted(upward()), "files in circles": sorted(circles())}
    faults |= {f"functions over {MOST_LINES} lines": long(), f"functions over {MOST_PARAMETERS} parameters": wide()}
    for what, found in faults.items():
        print(f"house    {what}: {len(found)} {', '.join(map(str, found))}".rstrip())
    print(f"house    {lines():,} lines; dict[str, Any] in signatures: {loose()}")
    return not any(faults.values())


if __name__ == "__main__":
    if "--picture" in sys.argv:
        print(picture())
    elif not report() and "--check" in sys.argv:
        sys.exit(1)
