"""From a path to the scenes in it: which dataset is this, and which scans does it hold?

A new layout is one module with a function `root -> list of sources`, entered in `_FINDERS`.
"""

from collections import Counter
from collections.abc import Callable, Sequence

from fsspec.core import url_to_fs

from preprocessing import photos, scannet
from preprocessing.scene import SceneSource
from spa3r.errors import ConfigError, SceneError
from spa3r.storage import exists, is_local

# In the order of detection: a folder of photos is whatever nothing else claims.
_FINDERS: dict[str, Callable[[str], Sequence[SceneSource]]] = {
    "scannet": scannet.find_scans,
    "photos": photos.find_scenes,
}
DATASETS = tuple(_FINDERS)


def open_scenes(root: str, dataset: str) -> list[SceneSource]:
    """Scenes of a dataset under a path or URL, by name; nothing is opened.

    Args:
        root: the dataset's folder, one scan's folder, or one `.sens` file.
        dataset: one of DATASETS.

    Raises:
        ConfigError: unknown dataset. SceneError: nothing there, or two scenes of one name.
    """
    if dataset not in _FINDERS:
        raise ConfigError(f"dataset {dataset!r} is unknown; choose one of {list(DATASETS)}")
    root = _absolute(root)
    if not exists(root):
        raise SceneError(f"{root}: no such file or folder")
    sources = list(_FINDERS[dataset](root))
    if not sources:
        raise SceneError(f"{root}: no scenes of dataset {dataset!r}; see docs/data.md for layouts")
    twice = [name for name, count in Counter(s.name for s in sources).items() if count > 1]
    if twice:
        raise SceneError(f"{root}: several scenes are called {twice}; rename all but one of each")
    return sources


def detect_dataset(root: str) -> str:
    """Name of the first dataset whose layout is found. Raises SceneError if none is."""
    root = _absolute(root)
    for dataset, find in _FINDERS.items():
        if find(root):
            return dataset
    raise SceneError(
        f"{root}: neither ScanNet scans (.sens, or folders with color/) nor photos are here"
    )


def _absolute(root: str) -> str:
    """Local paths made absolute, so that "." has a name and worker processes find it."""
    return str(url_to_fs(str(root))[1]) if is_local(root) else str(root)
