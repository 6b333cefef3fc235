"""Posed photos: pictures with a sparse COLMAP model.

    <scene>/sparse/0/{cameras,images}.{bin,txt}    or in sparse/, colmap/sparse/0/, colmap/ or here
    <scene>/images/...                             or images_2, images_4, images_8, or beside it all
    train.txt, val.txt, test.txt                   in the root, optional

The root is one scene or a folder of scenes. The unit of length is the model's own. Pictures are
found by their path below the folder, or by their name alone where only one is called so; a name in
a model never leads to a file that the folder's listing lacks. EXIF orientation is not applied, as
the camera is that of the picture as stored. Smaller copies of the pictures take a camera as much
smaller.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Final

import numpy as np

from preprocessing.colmap_files import Model, Registered, model_files, read_model
from preprocessing.photos import SUFFIXES
from preprocessing.scene import Damage, Frame, Scene, base_name, natural_key, scene_name, subfolders
from preprocessing.splits import read_splits
from spa3r.errors import FormatError, ImageError, SceneError
from spa3r.images import EncodedImage, stored_size
from spa3r.lens import Undistortion, camera
from spa3r.schema import DROP_IMAGE, DROP_MISSING, DROP_POSE, DROP_UNREGISTERED
from spa3r.storage import filesystem, join, read_bytes

_MODEL_FOLDERS: Final = ("sparse/0", "sparse", "colmap/sparse/0", "colmap")
_IMAGE_FOLDERS: Final = ("images", "images_2", "images_4", "images_8")
_DEPTH: Final = 4
"""Folders below images that are looked into."""
_PROBED: Final = 3
"""Pictures that are tried when a scene is opened."""


def find_models(root: str) -> list["ColmapSource"]:
    """All scenes under a root, by name; [] if there are none. Only folders are listed."""
    folders = [root] if _model_in(root) else subfolders(root)
    found = [(folder, files) for folder in folders if (files := _model_in(folder))]
    split_of = read_splits(root) if found else {}
    return [_source(folder, files, split_of.get(base_name(folder), "")) for folder, files in found]


def _model_in(folder: str) -> tuple[str, str] | None:
    """URLs of the cameras and images of a scene's model; None: it has none."""
    names = {base_name(url) for url in subfolders(folder)}
    places = [p for p in _MODEL_FOLDERS if p.split("/")[0] in names]
    urls = (*(join(folder, place) for place in places), folder)
    return next((files for url in urls if (files := model_files(url))), None)


def _source(folder: str, files: tuple[str, str], split: str) -> "ColmapSource":
    names = {base_name(url) for url in subfolders(folder)}
    images = next((join(folder, name) for name in _IMAGE_FOLDERS if name in names), folder)
    return ColmapSource(
        name=scene_name(folder), split=split, url=folder, files=files, images=images
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ColmapSource:
    """One scene; see preprocessing.scene.SceneSource."""

    dataset: str = "colmap"
    name: str
    split: str
    url: str
    files: tuple[str, str]
    """URLs of the model's cameras and images."""
    images: str
    """Folder of the pictures."""
    fingerprint: str = ""

    @property
    def content(self) -> tuple[str, ...]:
        """The model and the pictures."""
        return (*self.files, self.images)

    @contextmanager
    def open(self, labels: bool = True) -> Iterator[Scene]:
        """The scene; it has no labels. Raises FormatError, SceneError."""
        beside = self.images == self.url
        pictures = _list_pictures(self.images, 1 if beside else _DEPTH)
        if not pictures:
            raise SceneError(f"{self.images}: no pictures ({', '.join(SUFFIXES)}) in this folder")
        scene = ColmapScene(read_model(*self.files), pictures, self.images)
        scene.problems += self._other_models()
        yield scene

    def _other_models(self) -> list[str]:
        """COLMAP writes sparse/1, ... for pictures that it could not connect with those of 0."""
        folder = self.files[0].rpartition("/")[0]
        if base_name(folder) != "0":
            return []
        beside = subfolders(folder.rpartition("/")[0])
        others = [url for url in beside if url != folder and model_files(url)]
        return [f"{url}: a model of its own; its pictures are left out" for url in others]


def _list_pictures(folder: str, depth: int) -> dict[str, str]:
    """Path below the folder -> URL of each picture in it, so many folders deep."""
    fs, home = filesystem(folder)
    home = home.rstrip("/") + "/"
    paths = (str(path).removeprefix(home) for path in fs.find(home, maxdepth=depth))
    return {
        path: join(folder, path)
        for path in paths
        if path.lower().endswith(SUFFIXES) and not base_name(path).startswith(".")
    }


class ColmapScene:
    """Pictures and what the model says of them, in natural order of their paths.

    Raises:
        FormatError: not one of the pictures tried has a camera that fits it.
    """

    def __init__(self, model: Model, pictures: dict[str, str], folder: str) -> None:
        self._folder = folder
        self._pictures = pictures
        self._cameras = model.cameras
        self._registered = _match(model.images, pictures)
        self._paths = sorted({*pictures, *self._registered}, key=natural_key)
        # The maps of a lens take eight bytes a pixel; most models have one camera.
        self._pinhole = lru_cache(maxsize=2)(self._make_pinhole)
        self.indices: Sequence[int] = range(len(self._paths))
        self.label_to_nyu40: np.ndarray | None = None
        self.problems: list[str] = []
        self._probe()

    def frames(self, numbers: Sequence[int] | None = None) -> Iterator[Frame | Damage]:
        """The given pictures; Damage where there is no such file, no pose or no camera for it."""
        for index in self.indices if numbers is None else numbers:
            yield self._frame(index)

    @cached_property
    def screened(self) -> frozenset[int]:
        """Numbers of pictures that are not in the model, and of its pictures that are not here."""
        usable = self._pictures.keys() & self._registered.keys()
        return frozenset(i for i in self.indices if self._paths[i] not in usable)

    def objects(self) -> dict[str, Any] | None:
        """None: models hold no annotations."""
        return None

    def _probe(self) -> None:
        both = [i for i in self.indices if i not in self.screened]
        if not both:
            raise FormatError(
                f"{self._folder}: none of the model's {len(self._registered)} pictures is here;"
                " put the pictures there that the model was made of"
            )
        tried = [self._frame(i) for i in both[:: max(1, len(both) // _PROBED)][:_PROBED]]
        if all(isinstance(entry, Damage) for entry in tried):
            details = (entry.detail for entry in tried if isinstance(entry, Damage))
            raise FormatError(f"{next(details)}; so it is with all that were tried")

    def _frame(self, index: int) -> Frame | Damage:
        path = self._paths[index]
        where = join(self._folder, path)
        image = self._registered.get(path)
        if image is None:
            detail = f"{where}: not in the model"
            return Damage(index=index, reason=DROP_UNREGISTERED, detail=detail)
        if path not in self._pictures:
            detail = f"{self._folder}: there is no {path!r}"
            return Damage(index=index, reason=DROP_MISSING, detail=detail)
        color = EncodedImage(data=read_bytes(self._pictures[path]), codec="file")
        try:
            K_33, lens = self._pinhole(image.camera_id, stored_size(color))
        except ImageError as error:
            return Damage(index=index, reason=DROP_IMAGE, detail=f"{where}: {error}")
        except FormatError as error:
            detail = f"{where}: camera {image.camera_id}: {error}"
            return Damage(index=index, reason=DROP_POSE, detail=detail)
        return Frame(
            index=index,
            color=color,
            depth=None,
            labels=None,
            lens=lens,
            K_33=K_33,
            world_from_camera_44=image.world_from_camera_44,
            timestamp_us=-1,
        )

    def _make_pinhole(
        self, camera_id: int, picture: tuple[int, int]
    ) -> tuple[np.ndarray, Undistortion | None]:
        fitted = self._cameras[camera_id].of_size(picture)
        return camera(fitted.model, fitted.parameters, fitted.size)


def _match(images: list[Registered], pictures: dict[str, str]) -> dict[str, Registered]:
    """Path -> entry of the model: the picture's where there is one, else the model's own name."""
    files = {base: path for path in pictures if (base := base_name(path))}
    in_folder = Counter(base_name(path) for path in pictures)
    in_model = Counter(base_name(image.name) for image in images)
    matched: dict[str, Registered] = {}
    for image in images:
        base = base_name(image.name)
        alone = in_folder[base] == in_model[base] == 1
        path = files[base] if alone and image.name not in pictures else image.name
        matched[path] = image
    return matched
