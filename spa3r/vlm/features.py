"""What is computed once for each video and read in every step of tuning.

That is the scene's geometry (latents: about 0.4 MB at full size) and, if asked for, the frozen
vision tower's tokens of its frames. An entry is found by what it was made of, so two runs share
it, and a video whose frames have changed has none.

Legend: V views, n tokens of one image, H width of the language model.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import numpy as np
import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from spa3r import storage
from spa3r.errors import FormatError
from spa3r.plain import config_hash
from spa3r.vision_input import SceneViews
from spa3r.vlm.batch import Geometry

FORMAT: Final = "spa3r-features-1"
_SUFFIX: Final = ".safetensors"
KEPT: Final = 32
"""Entries that a process remembers."""
_DAMAGE: Final = (SafetensorError, ValueError, KeyError, TypeError)


def content_of(views: SceneViews) -> str:
    """32 hex digits over prepared pixels, depth, K and poses: what features are made of."""
    digest = hashlib.sha256()
    for name, array in views.arrays().items():
        digest.update(f"\n{name} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:32]


class FeatureStore:
    """Entries made by one encoder (or one vision tower), in a folder or below an fsspec URL."""

    def __init__(self, folder: str, made_by: Mapping[str, Any]) -> None:
        """
        Args:
            made_by: hashes and settings that decide an entry besides the views; plain JSON.
        """
        self.folder = storage.join(folder, config_hash({"format": FORMAT, **made_by}))
        self._read = lru_cache(maxsize=KEPT)(self._load)

    def has(self, content: str) -> bool:
        """Whether an entry is there and whole."""
        try:
            self._load(content)
        except FormatError:
            return False
        return True

    def contents(self) -> set[str]:
        """All entries, whole or damaged."""
        folders = storage.list_folders(self.folder)
        names = (name for found in storage.list_many(folders) for name in found)
        return {name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX)}

    def put(self, content: str, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """Writes an entry, atomically; same content, same bytes."""
        whole = {name: x.detach().cpu().contiguous().clone() for name, x in tensors.items()}
        metadata = {"spa3r": json.dumps({"format": FORMAT, **about}, sort_keys=True)}
        storage.write_bytes(self._place(content), safetensors.torch.save(whole, metadata=metadata))

    def get(self, content: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """An entry's tensors and what was said of them. They are shared: change none.

        Raises:
            FormatError: missing or damaged; the next preparation makes it again.
        """
        return self._read(content)

    def _load(self, content: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        place = self._place(content)
        try:
            data = storage.read_bytes(place)
        except FileNotFoundError as error:
            raise FormatError(f"{place}: missing; start again, it is made before training") from (
                error
            )
        try:
            tensors = safetensors.torch.load(data)
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            about = json.loads(header["__metadata__"]["spa3r"])
            if about.pop("format") != FORMAT:
                raise ValueError("of another version")
        except _DAMAGE as error:
            raise FormatError(
                f"{place}: damaged ({type(error).__name__}: {error}); delete it and start again: it"
                " is made before training"
            ) from error
        return tensors, about

    def _place(self, content: str) -> str:
        return storage.join(self.folder, content[:2], f"{content}{_SUFFIX}")


def put_geometry(store: FeatureStore, content: str, geometry: Geometry) -> None:
    """Keeps a scene's geometry."""
    tensors = {f"tokens.{i}": x for i, x in enumerate(geometry.tokens)}
    about = {
        "grid_hw": geometry.grid_hw,
        "views": geometry.views,
        "log_scale": geometry.log_scale,
    }
    store.put(content, tensors, about)


def get_geometry(store: FeatureStore, content: str) -> Geometry:
    """What `put_geometry` kept. Raises FormatError as `FeatureStore.get`."""
    tensors, about = store.get(content)
    rows, columns = about["grid_hw"]
    scale = about["log_scale"]
    return Geometry(
        tokens=tuple(tensors[f"tokens.{i}"] for i in range(len(tensors))),
        grid_hw=(int(rows), int(columns)),
        views=int(about["views"]),
        log_scale=None if scale is None or not math.isfinite(scale) else float(scale),
    )


def put_images(store: FeatureStore, content: str, tokens: tuple[Tensor, ...]) -> None:
    """Keeps the vision tower's (n, H) tokens of each image."""
    store.put(content, {f"image.{i:04d}": x for i, x in enumerate(tokens)}, {})


def get_images(store: FeatureStore, content: str) -> tuple[Tensor, ...]:
    """What `put_images` kept. Raises FormatError as `FeatureStore.get`."""
    tensors, _ = store.get(content)
    return tuple(tensors[name] for name in sorted(tensors))
