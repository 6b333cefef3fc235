"""Who may import whom (docs: CONTRIBUTING.md). Walks the syntax trees; nothing is imported."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
OURS = {"flows", "preprocessing", "spa3r"}

# library -> files that may import it
ONLY_IN = {
    "prefect": {"flows/"},
    "ray": {
        "spa3r/train/cluster.py",
        "preprocessing/ray_runner.py",
        "preprocessing/ray_targets.py",
    },
    "mlflow": {
        "spa3r/train/tracking.py",
        "spa3r/train/registry.py",
        "spa3r/train/lineage.py",
        "spa3r/train/champion.py",
        "spa3r/train/pyfunc.py",
        "spa3r/train/vlm_pyfunc.py",
    },
    "webdataset": {"preprocessing/shards.py", "spa3r/data/shards.py"},
    "tarfile": {"preprocessing/shards.py", "spa3r/data/shards.py"},
    "peft": {"spa3r/vlm/lora.py"},
    "starlette": {"spa3r/chat_page/"},
    "uvicorn": {"spa3r/chat_page/"},
}
# What preprocessing may take from spa3r: the contract, never a model.
CONTRACT = {"schema", "config", "errors", "geometry", "images", "codecs", "lens", "frame_choice",
            "loop_config", "listing", "lock", "plain", "storage", "progress", "guard",
            "video_decoder", "video_index", "instructions", "json_lines"}  # fmt: skip
TARGETS_MAY = CONTRACT | {"teachers", "data"}
# The modules of the stage `targets`, which run teachers.
TARGETS = ("preprocessing/targets.py", "preprocessing/target_", "preprocessing/ray_targets.py",
           "preprocessing/pack.py")  # fmt: skip
# Entry points that reach across, inside their functions only.
ENTRY_POINTS = {"spa3r/cli.py", "spa3r/train/pyfunc.py"} | {
    f"spa3r/{name}_commands.py"
    for name in (
        "ask",
        "chat",
        "scene",
        "export",
        "view",
        "convert",
        "ingest",
        "question",
        "check",
        "target",
        "train",
        "registry",
        "suite",
        "sweep",
        "instruct",
        "tune",
    )
}
TORCH_FREE = ("preprocessing/", *(f"spa3r/{name}.py" for name in CONTRACT))
BARE = {"torch", "transformers", "numpy", "safetensors", "PIL", "cv2", "pyarrow", "fsspec",
        "huggingface_hub", "spa3r"}  # fmt: skip
BARE_FOLDERS = ("spa3r/models/", "spa3r/teachers/")


def sources() -> list[Path]:
    return [p for top in sorted(OURS) for p in sorted((REPO / top).rglob("*.py"))]


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """(dotted module, whether the import runs at module level) of one file."""
    tree = ast.parse(path.read_text())
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        top = id(node) not in inside
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, top
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            yield module, top
            if module in OURS:
                for alias in node.names:
                    yield f"{module}.{alias.name}", top


def violations(path: Path) -> Iterator[str]:
    name = path.relative_to(REPO).as_posix()
    package = name.split("/")[0]
    for module, top in imports(path):
        root, *rest = module.split(".")
        where = f"{name} imports {module}"
        if root in ONLY_IN and not any(name.startswith(allowed) for allowed in ONLY_IN[root]):
            yield where
        if root in ("open3d", "peft") and top:
            yield f"{where} at module level"
        if root in OURS and root != package:
            if package == "spa3r" and not (name in ENTRY_POINTS and not top):
                yield where
            elif package == "preprocessing":
                allowed = TARGETS_MAY if name.startswith(TARGETS) else CONTRACT
                if root == "flows" or (rest and rest[0] not in allowed):
                    yield where
        torch_free = name.startswith(TORCH_FREE) and not name.startswith(TARGETS)
        if root == "torch" and torch_free:
            yield where
        bare = name.startswith(BARE_FOLDERS) or name == "spa3r/train/loop.py"
        if bare and top and root not in BARE and root not in sys.stdlib_module_names:
            yield f"{where}, which a bare GPU image lacks"


@pytest.mark.parametrize("path", sources(), ids=lambda p: p.relative_to(REPO).as_posix())
def test_imports_stay_inside_the_fence(path: Path) -> None:
    assert list(violations(path)) == []


def test_the_fence_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.unit.test_imports.REPO", tmp_path, raising=False)
    bad = tmp_path / "preprocessing" / "bad.py"
    bad.parent.mkdir()
    bad.write_text("import mlflow\nimport torch\nfrom spa3r.models import spa3r\nimport open3d\n")
    import tests.unit.test_imports as module

    assert len(list(module.violations(bad))) == 4


@pytest.mark.parametrize("path", sources(), ids=lambda p: p.relative_to(REPO).as_posix())
def test_files_and_functions_fit_a_reader(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 400, f"{path} has more than 400 lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= 60, f"{path}: {node.name} has {lines} lines"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{path}:{node.lineno}: bare except"
