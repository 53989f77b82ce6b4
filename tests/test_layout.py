"""The house: imports flow one way, heavy ones live in few rooms, and --help is instant."""

import ast
import re
import subprocess
import sys

import pytest

from tests.support.album import ROOT

# rooms that may load TensorFlow; everywhere else it would slow every verb down by 5 s
TENSORFLOW_ROOMS = {"extract/ground/tensorflow.py"}
TENSORFLOW = {"tensorflow", "keras", "tensorflow_hub", "tf_keras"}


def imports_of(path):
    """Every module name that a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


FILES = sorted([*(ROOT / "extract").rglob("*.py"), *(ROOT / "heads").rglob("*.py")])

# from the ground up: a folder, or a file on the top level, imports only itself and what stands before it
ORDER = (
    *(
        "extract.ground",
        "extract.recipe",
        "extract.images",
        "extract.tables",
        "extract.files",
        "extract.backbones",
        "extract.store",
    ),
    *(
        "extract.workspace",
        "extract.demo",
        "extract.embed",
        "extract.run",
        "extract.shards",
        "extract.cluster",
        "extract.link_tree",
    ),
    *("extract.__main__", "heads.stats", "heads.menu", "heads.data", "heads.ship", "heads.train", "heads.compare"),
    *("heads.review", "heads.__main__"),
)
# what is left to mend: imports that go up, and files in circles; both may only shrink
UPWARD: set[tuple[str, str]] = {
    ("extract.workspace", "extract.demo"),
    ("heads.data.dataset", "heads.compare.leaks"),
    ("heads.stats.paired", "heads.data.dataset"),
    ("heads.stats.paired", "heads.train"),
}
CIRCLES: set[str] = {
    "extract.demo",
    "extract.workspace",
    "heads.compare.leaks",
    "heads.data.dataset",
    "heads.train",
}
# what computes, and may know of nothing else of ours
PURE = ("heads.stats.metrics", "heads.menu.layers")


def module_of(path):
    """Return a file's dotted name."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def arrows():
    """Map each module to the modules of ours that it imports, in functions and under TYPE_CHECKING too."""
    known = {module_of(path): path for path in FILES if path.name != "__init__.py"}
    return {name: (imports_of(path) & set(known)) - {name} for name, path in known.items()}


def room(module):
    """Return the place in ORDER of a module: its folder, or itself where it lies on the top level."""
    places = [number for number, each in enumerate(ORDER) if f"{module}.".startswith(f"{each}.")]
    assert places, f"{module} has no place in ORDER"
    return places[0]


def upward():
    """Return the imports that go up."""
    return {(here, there) for here, found in arrows().items() for there in found if room(there) > room(here)}


def circles():
    """Return the modules that import themselves in the end."""
    graph, found = arrows(), set()
    for name in graph:
        seen, stack = set(), [name]
        while stack:
            fresh = graph[stack.pop()] - seen
            seen |= fresh
            stack += fresh
        found |= {name} & seen
    return found


def test_a_folder_imports_only_folders_below_it():
    """`__main__` -> verb -> contract -> ground; heads -> extract, never back. What is mended leaves UPWARD."""
    assert upward() == UPWARD


def test_no_file_imports_itself_in_the_end():
    """What is opened leaves CIRCLES."""
    assert circles() == CIRCLES


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_the_product_needs_no_tests_and_little_of_it_needs_tensorflow(path):
    """Doubles and benchmarks stay outside; TensorFlow is loaded in its rooms alone; what is pure stays pure."""
    roots = {name.split(".")[0] for name in imports_of(path)}
    assert not roots & {"benchmarks", "tests"}
    if path.relative_to(ROOT).as_posix() not in TENSORFLOW_ROOMS:
        assert not roots & TENSORFLOW
    if module_of(path) in PURE:
        assert not roots & {"extract", "heads"}


@pytest.mark.parametrize("package", ["extract", "heads"])
def test_help_loads_neither_tensorflow_nor_scikit_learn(package):
    """--help is instant."""
    code = f"""
import sys
from {package}.__main__ import main
try:
    main(["--help"])
except SystemExit as stopped:
    assert stopped.code == 0
assert not {{"tensorflow", "keras", "sklearn", "plotly"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


def test_training_scikit_learns_heads_loads_no_tensorflow(cached):
    """`make head HEAD=logistic` is bound by the fit, not by an import."""
    code = f"""
import sys
from heads.__main__ import main
assert main(["train", "--head", "logistic,lda,svm,knn", "--out", {str(cached.out)!r}]) == 0
assert not {{"tensorflow", "keras", "plotly"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


def test_nothing_loaded_from_disk_is_executed():
    """No pickle, no eval, no exec, in neither package; but for an Unpickler that finds no name of another's."""
    for path in FILES:
        names = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
        assert not names & {"eval", "exec", "__import__"}, path
        assert "allow_pickle=True" not in path.read_text()
        loaders = {"pickle", "joblib.load", "dill", "cloudpickle", "marshal", "shelve", "torch"}
        if path.name == "state_dict.py":
            assert set(re.findall(r"pickle\.(\w+)", path.read_text())) == {"Unpickler"}
            assert "def find_class" in path.read_text()
            loaders -= {"pickle"}
        assert not imports_of(path) & loaders, path


def opens_text(call):
    """Say whether a call opens text without naming an encoding."""
    owner, name = getattr(call.func, "value", None), getattr(call.func, "attr", getattr(call.func, "id", ""))
    named = any(word.arg == "encoding" for word in call.keywords) or len(call.args) > 3
    binary = any(isinstance(arg, ast.Constant) and "b" in str(arg.value) for arg in call.args)
    if name not in ("open", "read_text", "write_text") or getattr(owner, "id", "") in ("os", "Image"):
        return False
    return not named and not (name == "open" and binary)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_every_text_file_names_its_encoding(path):
    """Else the same file is read otherwise where LC_ALL is C."""
    calls = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
    assert [ast.unparse(call) for call in calls if opens_text(call)] == []
