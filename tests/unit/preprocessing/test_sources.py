"""Which layout lies under a path; every layout can be named, and none is taken for another."""

import importlib
import inspect
import pickle
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from threading import Condition
from typing import Any

import cv2
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from preprocessing import sources
from preprocessing.signature import Signature, sign, sign_many
from spa3r import storage
from spa3r.errors import ConfigError, SceneError


def photo(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".jpg", np.full((24, 32, 3), 100, np.uint8))[1].tobytes())


@pytest.mark.parametrize("dataset", sources.DATASETS)
def test_every_layout_has_a_finder_that_claims_no_other_folder(dataset: str, tmp_path: Path):
    module, _, function = sources._FINDERS[dataset].partition(":")
    find = getattr(importlib.import_module(module), function)
    assert list(inspect.signature(find).parameters) == ["root"]
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("nothing")
    for root in (tmp_path, tmp_path / "absent", tmp_path / "notes.txt"):
        assert list(find(str(root))) == []
    assert list(find("memory://nothing-here")) == []


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["hall/color/0.jpg"], "scannet"),
        (["scene0000_00/scene0000_00.sens"], "scannet"),
        (["hall/color/0.jpg", "hall/depth/0.png", "hall/trajectory.log"], "open3d"),
        (["Training/7/lowres_wide.traj", "Training/7/lowres_wide/7_1.0.png"], "arkitscenes"),
        (["chess/seq-01/frame-000000.color.png"], "7scenes"),
        (["hall/transforms.json", "hall/images/1.jpg"], "nerfstudio"),
        # nerfstudio keeps the model that its file was made of: the file is the finished product.
        (["h/transforms.json", "h/colmap/sparse/0/cameras.bin", "h/colmap/sparse/0/images.bin"],
         "nerfstudio"),
        (["hall/sparse/0/cameras.txt", "hall/sparse/0/images.txt", "hall/images/1.jpg"], "colmap"),
        (["cameras.txt", "images.txt", "1.jpg"], "colmap"),
        (["hall/1.jpg", "hall/transforms.txt", "hall/cameras.txt"], "photos"),
        (["seq-01/1.jpg"], "photos"),
        (["walk.MOV"], "videos"),
    ],
)  # fmt: skip
def test_what_is_found(tmp_path: Path, files: list[str], expected: str):
    for file in files:
        photo(tmp_path / file)
    assert sources.detect_dataset(str(tmp_path)) == expected
    found = sources.open_scenes(str(tmp_path), expected)
    assert pickle.loads(pickle.dumps(found)) == found
    for source in found:
        assert source.dataset == expected and source.content


def test_a_scannetpp_release_is_not_taken_for_its_parts(shared: Path):
    root = shared / "data/scannetpp/fake_root"
    if not root.is_dir():
        pytest.skip("no such release in the reference material")
    scene = root / "data/a1b2c3d4e5"
    for folder in (root, scene, scene / "dslr"):
        assert sources.detect_dataset(str(folder)) == "scannetpp"
    assert sources.detect_dataset(str(scene / "iphone")) == "scannetpp_iphone"


def test_nothing_known_is_one_line(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(
        SceneError, match=r"neither ScanNet scans nor .* see docs/data\.md"
    ) as error:
        sources.detect_dataset(str(tmp_path))
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match=r"'kitti' is unknown; choose one of .*7scenes"):
        sources.open_scenes(str(tmp_path), "kitti")


def test_layouts_are_detected_where_video_libraries_are_not_installed(tmp_path: Path):
    """`spa3r encode` needs none of them."""
    photo(tmp_path / "1.jpg")
    blocked = (
        "import sys; sys.modules |= dict.fromkeys(['av', 'lz4', 'lz4.block', 'scipy', 'open3d'])\n"
        "from preprocessing.sources import detect_dataset, open_scenes\n"
        "name = detect_dataset(sys.argv[1])\n"
        "with open_scenes(sys.argv[1], name)[0].open() as scene: print(name, len(scene.indices))"
    )
    command = [sys.executable, "-c", blocked, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "photos 1\n", done.stderr


def test_a_reader_whose_library_is_absent_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "needs_it.py").write_text("import a_library_of_nobody\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sources._FINDERS, "7scenes", "needs_it:find")
    line = r"dataset '7scenes' needs a_library_of_nobody, .* \'spa3r-platform\[platform\]\'"
    with pytest.raises(ConfigError, match=line):
        sources.open_scenes(str(tmp_path), "7scenes")
    with pytest.raises(SceneError, match=rf"docs/data\.md; {line}"):
        sources.detect_dataset(str(tmp_path))
    photo(tmp_path / "1.jpg")
    assert sources.detect_dataset(str(tmp_path)) == "photos"


class Listings:
    """Of the memory file system: which there were, and how many at once.

    Those of scenes wait for each other until ENOUGH of them are asked at a time, so that a busy
    machine does not decide; asked one by one, the first waits in vain.
    """

    ENOUGH = 8

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: Counter[str] = Counter()
        self.most = self._now = 0
        self._change = Condition()
        for name in ("ls", "find"):
            monkeypatch.setattr(MemoryFileSystem, name, self._met(getattr(MemoryFileSystem, name)))

    def _met(self, ask: Callable[..., Any]) -> Callable[..., Any]:
        def asked(fs: MemoryFileSystem, path: str, **more: Any) -> Any:
            with self._change:
                self.seen[path.rstrip("/")] += 1
                self._now += 1
                self.most = max(self.most, self._now)
                self._change.notify_all()
                if "/room" in path:
                    self._change.wait_for(lambda: self.most >= self.ENOUGH, timeout=5)
            try:
                return ask(fs, path, **more)
            finally:
                with self._change:
                    self._now -= 1

        return asked


@pytest.mark.parametrize(
    ("files", "dataset", "asked"),
    [
        (["{0}.sens", "{0}_2d-label.zip"], "scannet", "scannet"),
        (["{0}.sens", "{0}_2d-label.zip"], "scannet", ""),
        (["color/0.jpg", "depth/0.png"], "scannet", ""),
        (["transforms.json"], "nerfstudio", ""),
        (["1.jpg", "2.jpg"], "photos", ""),
    ],
)
def test_a_remote_dataset_is_listed_many_folders_at_a_time(
    monkeypatch: pytest.MonkeyPatch, files: list[str], dataset: str, asked: str
):
    scenes, root = 300, f"memory://listed-{dataset}-{len(files)}-{files[0][0]}"
    for number in range(scenes):
        name = f"room{number:04d}"
        for file in files:
            storage.write_bytes(f"{root}/{name}/{file.format(name)}", b"1")
    storage.write_bytes(f"{root}/scannetv2-labels.combined.tsv", b"")
    listings = Listings(monkeypatch)
    found, opened = sources.find_scenes(root, asked)
    assert (found, len(opened)) == (dataset, scenes)
    per_scene = Counter({p: n for p, n in listings.seen.items() if "/room" in p})
    assert len(per_scene) == scenes and set(per_scene.values()) == {1}
    assert listings.most >= Listings.ENOUGH
    # And before anything is read, all are signed.
    listings.seen.clear()
    listings.most = 0
    signed = list(sign_many(opened))
    assert [s.files for s in signed if isinstance(s, Signature)] == [len(files)] * scenes
    assert signed == [sign(source) for source in opened]  # in their order
    assert listings.most >= Listings.ENOUGH


def test_what_is_read_is_never_remembered(monkeypatch: pytest.MonkeyPatch):
    storage.write_bytes("memory://look/a/1.jpg", b"1")
    for number in range(2, 4):
        assert len(sources.open_scenes("memory://look", "photos")) == number - 1
        storage.write_bytes(f"memory://look/scan{number}/1.jpg", b"1")
        assert storage.exists(f"memory://look/scan{number}")
    with storage.one_look():
        assert storage.list_names("memory://look") == ["a", "scan2", "scan3"]
        storage.write_bytes("memory://look/b/1.jpg", b"1")
        assert not storage.exists("memory://look/b/1.jpg")  # as promised, nobody writes
        assert storage.exists("memory://look/a/1.jpg") and not storage.exists("memory://look/a/2")
    assert storage.exists("memory://look/b/1.jpg")
