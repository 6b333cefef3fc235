"""ScanNet scans: the released `.sens` files and the folders exported from them.

Layouts found under a root (scans may also lie in `<root>/scans` and `<root>/scans_test`, as in the
release; a scan's folder may be the root):

    <scan>/<scan>.sens                              or the only .sens there, whatever its name
    <scan>.sens
    <scan>/color/<i>.jpg ...                        preprocessing.scannet_export
    <scan>/[sequence/]_info.txt, frame-000000.*     preprocessing.scannet_images
    scannetv2_{train,val,test}.txt, scannetv2-labels.combined.tsv   (optional; or further up)

Beside each scan there may be its label images (preprocessing.scannet_labels) and its annotated
objects (preprocessing.scannet_objects).

Colour and depth are aligned: no extrinsic is applied, K is only rescaled (ScanNet issue #92).
Intrinsics are taken to count pixel centres at +0.5, which ScanNet does not say. Poses stay in the
scan's own frame, invalid ones as they are; `axisAlignment` goes into the objects file.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from preprocessing.scannet_export import ExportedScene
from preprocessing.scannet_images import SUBFOLDER, ImagesScene, has_images
from preprocessing.scannet_labels import LabelImages, label_places, open_labels, read_label_table
from preprocessing.scannet_objects import SUFFIXES, read_objects
from preprocessing.scene import Damage, Frame, Scene, base_name, scene_name, screened, subfolders
from preprocessing.sens import SensReader
from preprocessing.splits import SCANNET_LISTS, read_scannet_splits
from spa3r.errors import FormatError
from spa3r.guard import GENERATED
from spa3r.schema import DROP_LABEL_IMAGE
from spa3r.storage import (
    at_once,
    exists,
    join,
    list_files,
    list_many,
    list_names,
    open_read,
    sha256,
)

log = logging.getLogger(__name__)

ROOMS_RECORDS = ".rooms"
"""Folder beside the scans that preprocessing.rooms wrote: a record of each."""
LABEL_TABLE = "scannetv2-labels.combined.tsv"
_SENS = ".sens"
_SCANS = ("scans", "scans_test")
_SCAN_NAME = re.compile(r"scene\d{4}_\d\d")
Kind = Literal["sens", "export", "images"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScannetSource:
    """One scan that can be opened; see preprocessing.scene.SceneSource."""

    dataset: str = "scannet"
    name: str
    split: str
    url: str
    kind: Kind
    label_table: str = ""
    """URL of the dataset's label table; "" when it has none: labels are then ignored."""
    table_hash: str = ""
    """Hex SHA-256 of the label table; "" when there is none, or none of the scan's labels."""

    @property
    def fingerprint(self) -> str:
        """Of the label table, where the scan has labels: another table changes no other scan."""
        return self.table_hash

    @property
    def content(self) -> tuple[str, ...]:
        """The export's folder, or the `.sens` file and what is released beside it."""
        if self.kind != "sens":
            return (_folder(self.url, self.kind),)
        stem = self._stem
        return (self.url, *(stem + suffix for suffix in SUFFIXES), *(u for u, _ in self._labels()))

    @property
    def _stem(self) -> str:
        """What the names of all files beside the scan begin with."""
        if self.kind == "sens" and scene_name(stem := self.url[: -len(_SENS)]) == self.name:
            return stem
        folder = _folder(self.url, self.kind)
        return join(folder, base_name(folder))

    def _labels(self) -> list[tuple[str, bool]]:
        folder, _, name = self._stem.rpartition("/")
        return label_places(self._stem, folder if base_name(folder) == name else None)

    @contextmanager
    def open(self, labels: bool = True) -> Iterator[Scene]:
        """The open scan, without its labels if so wanted. Raises FormatError, SceneError."""
        table = read_label_table(self.label_table) if labels and self.label_table else None
        with ExitStack() as stack:
            if self.kind == "export":
                reader = ExportedScene(self.url)
            elif self.kind == "images":
                reader = ImagesScene(self.url)
            else:
                reader = SensReader(stack.enter_context(open_read(self.url)), self.url)
            images = None
            if table is not None:
                images = stack.enter_context(open_labels(self._labels()))
            yield ReleasedScan(reader, images, table, self._stem)


class ReleasedScan:
    """Frames of any layout with the label images and annotations released beside them."""

    def __init__(
        self, reader: Scene, labels: LabelImages | None, table: np.ndarray | None, stem: str
    ) -> None:
        self._reader = reader
        self._labels = labels
        self._stem = stem
        self._object_problems: list[str] = []
        self.label_to_nyu40 = None if labels is None else table

    @property
    def indices(self) -> Sequence[int]:
        """As the reader's."""
        return self._reader.indices

    @property
    def screened(self) -> frozenset[int]:
        """As the reader's."""
        return screened(self._reader)

    @property
    def problems(self) -> list[str]:
        """Of the frames, and of the objects once they were asked for."""
        return [*self._reader.problems, *self._object_problems]

    def objects(self) -> dict[str, Any] | None:
        """The annotated objects; None where mesh, segments or groups are absent.

        Raises:
            FormatError: annotations that are damaged or do not belong together.
        """
        found = read_objects(self._stem)
        if found is None:
            return None
        content, self._object_problems = found
        return content

    def frames(self, numbers: Sequence[int] | None = None) -> Iterator[Frame | Damage]:
        """The reader's, with labels where there are any; Damage where those are damaged."""
        for frame in self._reader.frames(numbers):
            if self._labels is None or isinstance(frame, Damage):
                yield frame
                continue
            try:
                yield replace(frame, labels=self._labels.png(frame.index))
            except FormatError as error:  # without its labels the frame would hide that
                detail = str(error)
                yield Damage(index=frame.index, reason=DROP_LABEL_IMAGE, detail=detail)


# --- finding scans --------------------------------------------------------------------------------


def find_scans(root: str) -> list[ScannetSource]:
    """All scans under a root, by name; [] if there are none. Only folders are listed."""
    home = _home(root)
    split_of = read_scannet_splits(home)
    table = join(home, LABEL_TABLE)
    label_table, table_hash = (table, sha256(table)) if exists(table) else ("", "")
    # Generated rooms are laid out as ScanNet is, names and all, but nothing asks about them.
    records = list_files(join(home, ROOMS_RECORDS), ".json")
    generated = {base_name(url).removesuffix(".json") for url in records}
    sources: list[ScannetSource] = []
    for name, url, kind in _scans_in(root):
        source = ScannetSource(
            dataset=GENERATED if name in generated else "scannet",
            name=name,
            split=split_of.get(name, ""),
            url=url,
            kind=kind,
            label_table=label_table,
            table_hash=table_hash,
        )
        # Asked now, when the scan's folder has just been listed.
        labelled = label_table and any(exists(url) for url, _ in source._labels())
        sources.append(source if labelled else replace(source, table_hash=""))
    return sorted(sources, key=lambda source: source.name)


def _home(root: str) -> str:
    """The folder of split lists or label table: that of the scans, or one or two above it."""
    home = root.rpartition("/")[0] if _is_sens(root) else root
    if _has_lists(home):
        return home
    for folder in _above(home, 2):
        try:
            if _has_lists(folder):
                return folder
        except PermissionError as error:  # a key to a bucket may open one folder only
            log.info("%s: not looked in for split lists and label table (%s)", folder, error)
            break
    return home


def _above(folder: str, count: int) -> Iterator[str]:
    """The folders that a folder is in, the nearest first; the root of a file system is none."""
    for _ in range(count):
        folder = folder.rstrip("/").rpartition("/")[0]
        if not folder or folder.endswith((":", "/")):
            return
        yield folder


def _has_lists(folder: str) -> bool:
    return any(exists(join(folder, name)) for name in (*SCANNET_LISTS.values(), LABEL_TABLE))


def _is_sens(name: str) -> bool:
    return name.lower().endswith(_SENS) and not base_name(name).startswith(".")


def _folder(url: str, kind: Kind) -> str:
    """The folder that holds nothing but one scan, or the scan's file."""
    url = url.rstrip("/")
    inside = kind == "sens" or (kind == "images" and base_name(url) == SUBFOLDER)
    return url.rpartition("/")[0] if inside else url


def _scans_in(root: str) -> Iterator[tuple[str, str, Kind]]:
    """Name, URL and kind of each scan."""
    if _is_sens(root):
        yield scene_name(root[: -len(_SENS)]), root, "sens"
        return
    names = list_names(root)
    is_scan = _SCAN_NAME.fullmatch(base_name(root)) is not None
    if is_scan or not any(map(_is_sens, names)):
        if found := _scan_of(root, names):
            yield found
            return
        if is_scan:
            _tell_left_out(root, names)
            return
    bases = [join(root, name) for name in _SCANS if name in names]
    for base in bases or [root]:
        yield from _scans_beside(base, list_names(base) if bases else names)


def _scans_beside(base: str, names: Sequence[str]) -> Iterator[tuple[str, str, Kind]]:
    """The scans in a folder, whose entries have these names: files and folders of their own."""
    for name in filter(_is_sens, names):
        yield scene_name(name[: -len(_SENS)]), join(base, name), "sens"
    folders = subfolders(base)
    listed = zip(folders, list_many(folders), strict=True)
    for folder, inside, found in at_once(base, lambda pair: (*pair, _scan_of(*pair)), listed):
        if found:
            yield found
        else:
            _tell_left_out(folder, inside)


def _tell_left_out(folder: str, names: Sequence[str]) -> None:
    """A warning about what looks like a scan's folder but is read as none."""
    if not any(map(_is_sens, names)) and _SCAN_NAME.fullmatch(base_name(folder)):
        log.warning("%s holds neither a .sens file nor a color folder; left out", folder)


def _scan_of(folder: str, names: Sequence[str]) -> tuple[str, str, Kind] | None:
    """Name, URL and kind of the scan that a folder with entries of these names is."""
    name = scene_name(folder)
    if sens := _sens_of(folder, names):
        return name, join(folder, sens), "sens"
    if "color" in names:
        return name, folder, "export"
    if has_images(names):
        return scene_name(_folder(folder, "images")), folder, "images"
    if SUBFOLDER in names:
        inner = join(folder, SUBFOLDER)
        if has_images(list_names(inner)):
            return name, inner, "images"
    return None


def _sens_of(folder: str, names: Sequence[str]) -> str | None:
    """The `.sens` file of a scan's folder: that of the folder's name, or else the only one."""
    found = [name for name in names if _is_sens(name)]
    own = [name for name in found if name.lower() == f"{base_name(folder)}{_SENS}".lower()]
    chosen = own[0] if own else found[0] if len(found) == 1 else None
    if others := [name for name in found if name != chosen]:
        log.warning(
            "%s holds several .sens files; left out: %s; give each its folder",
            folder,
            ", ".join(others),
        )
    return chosen
