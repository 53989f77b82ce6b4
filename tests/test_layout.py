"""The house: imports flow one way, heavy ones live in few rooms, and --help is instant."""

import ast
import re
import subprocess
import sys

import pytest

from tests.support.album import ROOT

# rooms that may load TensorFlow; everywhere else it would slow every verb down by 5 s
TENSORFLOW_ROOMS = {"extract/ground/engines.py"}
TENSORFLOW = {"tensorflow", "keras", "tensorflow_hub", "tf_keras"}
# what a module must not import: the stage boundary, and the order inside stage 1
FORBIDDEN = {
    "extract": {"heads", "benchmarks", "tests"},
    "heads": {"benchmarks", "tests"},
    "extract/store/cache.py": {
        f"extract.{name}" for name in ("run", "manifest", "labels", "images", "workspace", "backbone")
    },
    "extract/images/decode.py": {"extract.backbones.backbone", "extract.store.cache", "extract.run"},
    "extract/backbones/state_dict.py": {
        f"extract.{name}" for name in ("run", "manifest", "labels", "workspace", "backbone")
    },
    "extract/tables/labels.py": {"extract.files.manifest", "extract.run"},
    "heads/stats/metrics.py": {"extract", "heads"},
    "heads/menu/layers.py": {"extract", "heads"},
}


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


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_imports_flow_one_way(path):
    """__main__ -> verb -> contract; heads -> extract, never back."""
    name = path.relative_to(ROOT).as_posix()
    found = imports_of(path)
    for place, forbidden in FORBIDDEN.items():
        if name == place or name.startswith(place + "/"):
            bad = {f for f in found if any(f == each or f.startswith(each + ".") for each in forbidden)}
            assert not bad, f"{name} imports {bad}"
    if name not in TENSORFLOW_ROOMS:
        assert not {f for f in found if f.split(".")[0] in TENSORFLOW}, f"{name} imports TensorFlow"


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
