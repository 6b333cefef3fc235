"""ScanNet scans: the released `.sens` files and the exported folders made from them.

Layouts found under a root (scans may also lie in `<root>/scans`):

    <scan>/<scan>.sens  [<scan>/<scan>_2d-label-filt.zip]
    <scan>.sens
    <scan>/color/<i>.jpg  [depth/<i>.png]  [pose/<i>.txt]  [intrinsic/intrinsic_color.txt]
           [label-filt/<i>.png]
    scannetv2_{train,val,test}.txt, scannetv2-labels.combined.tsv   (optional)

Colour and depth are aligned: no extrinsic is applied, K is only rescaled (ScanNet issue #92).
Intrinsics are taken to count pixel centres at +0.5, which ScanNet does not say.
"""

import csv
import io
import logging
import lzma
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from preprocessing.scene import Damage, Frame, Scene, base_name, scene_name, subfolders
from preprocessing.sens import SensReader
from preprocessing.splits import read_scannet_splits
from spa3r.errors import FormatError, ImageError, SceneError
from spa3r.images import EncodedDepth, EncodedImage, stored_size
from spa3r.schema import DROP_DEPTH_IMAGE, DROP_LABEL_IMAGE, DROP_POSE
from spa3r.storage import exists, join, list_files, open_read, read_bytes, sha256

log = logging.getLogger(__name__)

LABEL_TABLE = "scannetv2-labels.combined.tsv"
_NYU40_MAX = 40
_LABEL_KINDS = ("label-filt", "label")  # the cleaned-up labels first
_MAX_LABEL_BYTES = 1 << 26
# zipfile answers a changed byte with any of these: RuntimeError for a member that now claims to be
# encrypted, NotImplementedError for another version or method, OverflowError for a place beyond
# any file. OSError (a place before the file) is not here: while reading it may be the disk's.
_ZIP_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(EOFError, NotImplementedError, OverflowError, RuntimeError, ValueError),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScannetSource:
    """One scan that can be opened; see preprocessing.scene.SceneSource."""

    dataset: str = "scannet"
    name: str
    split: str
    url: str
    kind: Literal["sens", "export"]
    label_table: str = ""
    """URL of the dataset's label table; "" when it has none: labels are then ignored."""
    fingerprint: str = ""
    """Hex SHA-256 of the label table; "" when there is none."""

    @contextmanager
    def open(self, labels: bool = True) -> Iterator[Scene]:
        """The open scan, without its labels if so wanted. Raises FormatError, SceneError."""
        table = read_label_table(self.label_table) if labels and self.label_table else None
        with ExitStack() as stack:
            if self.kind == "export":
                yield ExportedScene(self.url, table)
                return
            reader = SensReader(stack.enter_context(open_read(self.url)), self.url)
            archive = _find_label_archive(self.url) if table is not None else ""
            if not archive:
                yield reader
                return
            yield LabelledSens(reader, stack.enter_context(_open_zip(archive)), archive, table)


def find_scans(root: str) -> list[ScannetSource]:
    """All scans under a root, by name; [] if there are none. Only folders are listed."""
    home = root.rpartition("/")[0] if root.endswith(".sens") else root
    split_of = read_scannet_splits(home)
    table = join(home, LABEL_TABLE)
    label_table, fingerprint = (table, sha256(table)) if exists(table) else ("", "")
    sources = [
        ScannetSource(
            name=scene_name(url),
            split=split_of.get(scene_name(url), ""),
            url=url,
            kind=kind,
            label_table=label_table,
            fingerprint=fingerprint,
        )
        for url, kind in _scans_in(root)
    ]
    return sorted(sources, key=lambda source: source.name)


def _scans_in(root: str) -> Iterator[tuple[str, Literal["sens", "export"]]]:
    if root.endswith(".sens"):
        yield root, "sens"
        return
    if exists(join(root, "color")):
        yield root, "export"
        return
    base = join(root, "scans") if exists(join(root, "scans")) else root
    for url in list_files(base, ".sens"):
        yield url, "sens"
    for folder in subfolders(base):
        sens = join(folder, base_name(folder) + ".sens")
        if exists(sens):
            yield sens, "sens"
        elif exists(join(folder, "color")):
            yield folder, "export"
        elif re.fullmatch(r"scene\d{4}_\d\d", base_name(folder)):
            log.warning("%s holds neither a .sens file nor a color folder; left out", folder)


# --- labels ---------------------------------------------------------------------------------------


def read_label_table(url: str) -> np.ndarray:
    """uint8 table from ScanNet's label id to NYU40 id; ids without one map to 0.

    Raises:
        FormatError: a column is missing or holds something else than numbers.
    """
    try:
        rows = csv.DictReader(io.StringIO(read_bytes(url).decode()), delimiter="\t")
        pairs = [(int(row["id"]), int(row["nyu40id"])) for row in rows if row["nyu40id"]]
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{url}: needs numeric columns id and nyu40id ({error})") from error
    if not all(0 <= label < 1 << 16 for label, _ in pairs):
        raise FormatError(f"{url}: label ids must lie in 0..65535")
    table = np.zeros(max((label for label, _ in pairs), default=0) + 1, np.uint8)
    for label, nyu40 in pairs:
        # Two scans are known to carry ids beyond NYU40 (ScanNet issues #20, #86).
        table[label] = nyu40 if 0 <= nyu40 <= _NYU40_MAX else 0
    return table


def _find_label_archive(sens_url: str) -> str:
    stem = sens_url.removesuffix(".sens")
    return next((u for k in _LABEL_KINDS if exists(u := f"{stem}_2d-{k}.zip")), "")


@contextmanager
def _open_zip(url: str) -> Iterator[zipfile.ZipFile]:
    with open_read(url) as f:
        try:
            archive = zipfile.ZipFile(f)
        except (*_ZIP_DAMAGE, OSError) as error:
            raise FormatError(f"{url}: damaged archive; delete or download it again") from error
        with archive:
            yield archive


class LabelledSens:
    """A `.sens` scan with the 2D label images released beside it."""

    def __init__(
        self, reader: SensReader, archive: zipfile.ZipFile, url: str, table: np.ndarray | None
    ) -> None:
        self._reader = reader
        self._archive = archive
        self._url = url
        self._members = {
            _frame_number(info.filename): info
            for info in archive.infolist()
            if info.filename.endswith(".png")
        }
        self.label_to_nyu40 = table
        self.indices = reader.indices
        self.problems = reader.problems

    def frames(self, stride: int = 1) -> Iterator[Frame | Damage]:
        """As SensReader.frames, with labels where the archive has them; Damage where it lies."""
        for frame in self._reader.frames(stride):
            member = self._members.get(frame.index)
            if isinstance(frame, Frame) and member is not None:
                yield self._labelled(frame, member)
            else:
                yield frame

    def _labelled(self, frame: Frame, member: zipfile.ZipInfo) -> Frame | Damage:
        """The frame with its labels; Damage where they are: unlabelled it would hide that."""
        wrong = f"claims {member.file_size} bytes at {member.header_offset}"
        if member.file_size <= _MAX_LABEL_BYTES and member.header_offset >= 0:
            try:
                return replace(frame, labels=self._archive.read(member))
            except _ZIP_DAMAGE as error:
                wrong = f"is damaged ({error})"
        detail = f"{self._url}: {member.filename} {wrong}"
        return Damage(index=frame.index, reason=DROP_LABEL_IMAGE, detail=detail)


# --- exported folders -----------------------------------------------------------------------------


def _frame_number(name: str) -> int | None:
    """Number at the end of a file's stem, zero-padded or not; None: not a frame."""
    match = re.search(r"(\d+)\.\w+$", name)
    return int(match[1]) if match else None


def _numbered(folder: str) -> dict[int, str]:
    """Frame number -> URL, in numeric order; empty if the folder is absent."""
    urls: dict[int, str] = {}
    for url in list_files(folder):
        number = _frame_number(base_name(url))
        if number is None:
            continue
        if number in urls:
            raise FormatError(f"{folder}: frame {number} is there twice; remove one of the files")
        urls[number] = url
    return dict(sorted(urls.items()))


class ExportedScene:
    """A scan exported to `color/ depth/ pose/ intrinsic/`; all but colour is optional.

    Raises:
        SceneError: no colour images. FormatError: intrinsics of another image size.
    """

    def __init__(self, folder: str, label_to_nyu40: np.ndarray | None) -> None:
        self._folder = folder
        self._color = _numbered(join(folder, "color"))
        self._depth = _numbered(join(folder, "depth"))
        self._pose = _numbered(join(folder, "pose"))
        if not self._color:
            raise SceneError(f"{folder}/color: no numbered images; expected 0.jpg, 1.jpg, ...")
        self._labels: dict[int, str] = {}
        if label_to_nyu40 is not None:
            found = (_numbered(join(folder, kind)) for kind in _LABEL_KINDS)
            self._labels = next((labels for labels in found if labels), {})
        self.label_to_nyu40 = label_to_nyu40 if self._labels else None
        self.problems: list[str] = []
        self._K_33 = self._read_intrinsics()

    @property
    def indices(self) -> Sequence[int]:
        """The colour images' numbers; exports are often every n-th frame."""
        return list(self._color)

    def frames(self, stride: int = 1) -> Iterator[Frame | Damage]:
        """Every stride-th of the exported frames."""
        for index in self.indices[::stride]:
            yield self._frame(index)

    def _frame(self, index: int) -> Frame | Damage:
        depth, pose = None, None
        if self._depth:
            if index not in self._depth:
                detail = f"{self._folder}/depth has no frame {index}"
                return Damage(index=index, reason=DROP_DEPTH_IMAGE, detail=detail)
            depth = EncodedDepth(data=read_bytes(self._depth[index]), codec="png_u16")
        if self._pose:
            pose = _parse_matrix(read_bytes(self._pose[index])) if index in self._pose else None
            if pose is None:
                detail = f"{self._folder}/pose has no 4x4 matrix for frame {index}"
                return Damage(index=index, reason=DROP_POSE, detail=detail)
        return Frame(
            index=index,
            color=EncodedImage(data=read_bytes(self._color[index]), codec="file"),
            depth=depth,
            labels=read_bytes(self._labels[index]) if index in self._labels else None,
            K_33=self._K_33,
            world_from_camera_44=pose,
            timestamp_us=-1,
        )

    def _read_intrinsics(self) -> np.ndarray | None:
        """K of the colour images, from the depth camera's when only that was exported."""
        for kind, images in (("color", self._color), ("depth", self._depth)):
            url = join(self._folder, "intrinsic", f"intrinsic_{kind}.txt")
            if not images or not exists(url):
                continue
            matrix = _parse_matrix(read_bytes(url))
            if matrix is None or not np.isfinite(matrix).all() or min(np.diag(matrix)[:2]) <= 0:
                raise FormatError(f"{url}: not a 4x4 camera matrix")
            K_33, size = matrix[:3, :3], _first_size(images)
            if not (0 < K_33[0, 2] < size[0] and 0 < K_33[1, 2] < size[1]):
                raise FormatError(
                    f"{url}: principal point {K_33[0, 2]:g}, {K_33[1, 2]:g} lies outside the"
                    f" {size[0]} x {size[1]} images; put the K of these images there"
                )
            width, height = _first_size(self._color)
            return np.diag([width / size[0], height / size[1], 1.0]) @ K_33
        return None


def _parse_matrix(text: bytes) -> np.ndarray | None:
    """4x4 float64 from text, inf and nan included; None: something else."""
    try:
        values = np.array(text.split(), dtype=np.float64)
    except ValueError:
        return None
    return values.reshape(4, 4) if values.size == 16 else None


def _first_size(images: dict[int, str]) -> tuple[int, int]:
    """(width, height) of the first image whose header can be read."""
    for url in images.values():
        try:
            return stored_size(EncodedImage(data=read_bytes(url), codec="file"))
        except ImageError as error:
            log.warning("%s: %s", url, error)
    raise SceneError(f"{next(iter(images.values()))}: none of the images here can be read")
