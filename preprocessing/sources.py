"""From a path to the scenes in it: which dataset is this, and which scans does it hold?

A new layout is one module with a function `root -> list of sources`, entered in `_FINDERS`.
"""

import importlib
from collections import Counter
from collections.abc import Callable, Sequence

from fsspec.core import url_to_fs

from preprocessing.scene import SceneSource
from spa3r.errors import ConfigError, SceneError
from spa3r.storage import exists, is_local

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


def open_scenes(root: str, dataset: str) -> list[SceneSource]:
    """Scenes of a dataset under a path or URL, by name; nothing is opened.

    Args:
        root: the dataset's folder, one scan's folder, or one file that is a scan.
        dataset: one of DATASETS.

    Raises:
        ConfigError: unknown dataset, or a library that its reader needs is not installed.
        SceneError: nothing there, or two scenes of one name.
        FormatError: split lists that contradict each other.
    """
    if dataset not in _FINDERS:
        raise ConfigError(f"dataset {dataset!r} is unknown; choose one of {list(DATASETS)}")
    root = _absolute(root)
    if not exists(root):
        raise SceneError(f"{root}: no such file or folder")
    sources = list(_finder(dataset)(root))
    if not sources:
        raise SceneError(f"{root}: no scenes of dataset {dataset!r}; see docs/data.md for layouts")
    twice = [name for name, count in Counter(s.name for s in sources).items() if count > 1]
    if twice:
        raise SceneError(f"{root}: several scenes are called {twice}; rename all but one of each")
    return sources


def detect_dataset(root: str) -> str:
    """Name of the first dataset whose layout is found. Raises SceneError if none is.

    Every layout in turn lists the folders under root; at scale, name the dataset instead. Layouts
    whose libraries are not installed are passed over.
    """
    root = _absolute(root)
    lacking = ""
    for dataset in DATASETS:
        try:
            find = _finder(dataset)
        except ConfigError as error:
            lacking = f"; {error}"
            continue
        if find(root):
            return dataset
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
