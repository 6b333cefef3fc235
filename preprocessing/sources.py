"""From a path to the scenes in it: which dataset is this, and which scans does it hold?

A new layout is one module with a function `root -> list of sources`, entered in `_FINDERS`.
"""

import importlib
from collections import Counter
from collections.abc import Callable, Sequence

from fsspec.core import url_to_fs

from preprocessing.scene import SceneSource
from spa3r.errors import ConfigError, SceneError, ServiceError
from spa3r.storage import exists, is_local, list_folders, list_many, one_look

# "module:function", imported when asked. In the order of detection, the particular before the
# general: a release may hold another layout's files, and pictures are whatever nothing else claims.
_FINDERS = {
    "open3d": "preprocessing.open3d_rgbd:find_scenes",
    "scannet": "preprocessing.scannet:find_scans",
    "scannetpp": "preprocessing.scannetpp:find_dslr",
    "scannetpp_iphone": "preprocessing.scannetpp_iphone:find_iphone",
    "arkitscenes": "preprocessing.arkitscenes:find_videos",
    "7scenes": "preprocessing.seven_scenes:find_sequences",
    "nerfstudio": "preprocessing.nerfstudio:find_captures",
    "colmap": "preprocessing.colmap:find_models",
    "videos": "preprocessing.videos:find_videos",
    "photos": "preprocessing.photos:find_scenes",
}
DATASETS = tuple(_FINDERS)


def find_scenes(root: str, dataset: str = "") -> tuple[str, list[SceneSource]]:
    """Layout and scenes under a path or URL; nothing is opened.

    Args:
        root: the dataset's folder, one scan's folder, or one file that is a scan.
        dataset: one of DATASETS; "": the first whose layout is found, each listing the folders
            under root in turn. Layouts whose libraries are not installed are then passed over.

    Raises:
        ConfigError: unknown dataset, or a library that its reader needs is not installed.
        SceneError: nothing there, no scenes of a known layout, or two scenes of one name.
        FormatError: split lists that contradict each other.
        ServiceError: an object store cannot be reached. OSError: root cannot be listed.
    """
    if dataset and dataset not in _FINDERS:
        raise ConfigError(f"dataset {dataset!r} is unknown; choose one of {list(DATASETS)}")
    root = _absolute(root)
    try:
        layout, sources = _found(root, dataset)
    except ServiceError as error:
        raise ServiceError(f"{root}: {error}") from error
    if not sources:
        raise SceneError(f"{root}: no scenes of dataset {dataset!r}; see docs/data.md for layouts")
    twice = [name for name, count in Counter(s.name for s in sources).items() if count > 1]
    if twice:
        raise SceneError(f"{root}: several scenes are called {twice}; rename all but one of each")
    return layout, sources


def open_scenes(root: str, dataset: str) -> list[SceneSource]:
    """Scenes of a dataset under a path or URL, by name; see `find_scenes`."""
    if not dataset:
        raise ConfigError(f"dataset '' is unknown; choose one of {list(DATASETS)}")
    return find_scenes(root, dataset)[1]


def detect_dataset(root: str) -> str:
    """Name of the first dataset whose layout is found; see `find_scenes`."""
    return find_scenes(root)[0]


def _found(root: str, dataset: str) -> tuple[str, list[SceneSource]]:
    if not exists(root):
        raise SceneError(f"{root}: no such file or folder; check the path")
    with one_look():
        if not is_local(root):  # what every finder asks next, folder by folder
            for _ in list_many(list_folders(root)):
                pass
        return (dataset, list(_finder(dataset)(root))) if dataset else _first(root)


def _first(root: str) -> tuple[str, list[SceneSource]]:
    """The first layout that is found."""
    lacking = ""
    for dataset in DATASETS:
        try:
            find = _finder(dataset)
        except ConfigError as error:
            lacking = f"; {error}"
            continue
        if sources := list(find(root)):
            return dataset, sources
    raise SceneError(
        f"{root}: neither ScanNet scans nor another layout that is known is here"
        f" ({', '.join(DATASETS)}); see docs/data.md{lacking}"
    )


def _finder(dataset: str) -> Callable[[str], Sequence[SceneSource]]:
    module, _, function = _FINDERS[dataset].partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("preprocessing"):
            raise
        raise ConfigError(
            f"dataset {dataset!r} needs {error.name}, which is not installed: pip install"
            " 'spa3r-platform[platform]'"
        ) from error


def _absolute(root: str) -> str:
    """Local paths made absolute, so that "." has a name and worker processes find it."""
    return str(url_to_fs(str(root))[1]) if is_local(root) else str(root)
