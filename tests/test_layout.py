"""The house: imports flow one way, heavy ones live in few rooms, and --help is instant."""

import ast
import re
import subprocess
import sys

import pytest

from benchmarks import house
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

# what computes, and may know of nothing of ours but each other
PURE = ("extract.tables.task", "heads.data.neighbours", "heads.stats.metrics", "heads.menu.layers")


def module_of(path):
    """Return a file's dotted name."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def test_a_folder_imports_only_folders_below_it():
    """`__main__` -> verb -> contract -> ground; heads -> extract, never back; in functions and for types too."""
    assert house.upward() == set()
    assert house.circles() == set()


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_the_product_needs_no_tests_and_little_of_it_needs_tensorflow(path):
    """Doubles and benchmarks stay outside; TensorFlow is loaded in its rooms alone; what is pure stays pure."""
    roots = {name.split(".")[0] for name in imports_of(path)}
    assert not roots & {"benchmarks", "tests"}
    if path.relative_to(ROOT).as_posix() not in TENSORFLOW_ROOMS:
        assert not roots & TENSORFLOW
    if module_of(path) in PURE:
        ours = {name for name in imports_of(path) if name.split(".")[0] in ("extract", "heads")}
        assert all(name.startswith(PURE) for name in ours)


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


# rooms that name files of their own: below OUT only what is in the demo's data, a part, a bundle or an export
NAMES_FILES = {
    "extract.workspace",
    *("extract.demo", "extract.store.cache", "extract.store.parts"),
    *("heads.ship.bundle", "heads.ship.export", "heads.ship.formats"),
    # in Keras's folder, a package's and the project's own, and in a temporary one
    *("extract.backbones.backbone", "extract.backbones.keras", "extract.backbones.engines", "extract.backbones.lite"),
    "extract.ground.tensorflow",
}


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_the_workspace_names_every_file(path):
    """Elsewhere no path is made of strings."""
    divisions = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.BinOp)]
    divisions = [node for node in divisions if isinstance(node.op, ast.Div)]
    named = [node for node in divisions if isinstance(node.right, ast.JoinedStr)]
    named += [node for node in divisions if isinstance(getattr(node.right, "value", None), str)]
    assert module_of(path) in NAMES_FILES or [ast.unparse(node) for node in named] == []


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
