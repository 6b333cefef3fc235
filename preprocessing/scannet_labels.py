"""ScanNet's 2D label images: the table of ids, and the pictures in an archive or a folder.

scannetv2-labels.combined.tsv                       of the whole dataset: id -> nyu40id
<scan>_2d-label-filt.zip or <scan>_2d-label.zip     beside the scan
label-filt/ or label/                               unpacked, in the scan's folder
"""

import csv
import io
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Final, Protocol

import numpy as np

from preprocessing.scannet_export import frame_number, numbered_files
from preprocessing.scene import base_name
from spa3r.errors import FormatError
from spa3r.storage import exists, join, open_read, read_bytes

_NYU40_MAX: Final = 40
_KINDS: Final = ("label-filt", "label")  # the cleaned-up labels first
_ENDINGS: Final = (".png",)
_MAX_LABEL_BYTES = 1 << 26
_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # zipfile bounds no other's memory
# zipfile answers a changed byte with any of these: RuntimeError for a member that now claims to be
# encrypted, NotImplementedError for another version or method, OverflowError for a place beyond
# any file. OSError (a place before the file) is not here: while reading it may be the disk's.
_ZIP_DAMAGE: Final = (
    *(zipfile.BadZipFile, zlib.error, struct.error),
    *(EOFError, NotImplementedError, OverflowError, RuntimeError, ValueError),
)


class LabelImages(Protocol):
    """The label images of one scan."""

    def png(self, index: int) -> bytes | None:
        """The image of a frame; None: the frame is not labelled. Raises FormatError: damaged."""
        ...


def read_label_table(url: str) -> np.ndarray:
    """uint8 table from ScanNet's label id to NYU40 id; ids without one map to 0.

    Raises:
        FormatError: a column is missing or holds something else than numbers.
    """
    try:
        rows = csv.DictReader(io.StringIO(read_bytes(url).decode()), delimiter="\t")
        pairs = [(int(row["id"]), int(row["nyu40id"])) for row in rows if row["nyu40id"]]
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise FormatError(f"{url}: needs numeric columns id and nyu40id ({error})") from error
    if not all(0 <= label < 1 << 16 for label, _ in pairs):
        raise FormatError(f"{url}: label ids must lie in 0..65535")
    table = np.zeros(max((label for label, _ in pairs), default=0) + 1, np.uint8)
    for label, nyu40 in pairs:
        # Two scans are known to carry ids beyond NYU40 (ScanNet issues #20, #86).
        table[label] = nyu40 if 0 <= nyu40 <= _NYU40_MAX else 0
    return table


def label_places(stem: str, folder: str | None) -> list[tuple[str, bool]]:
    """(URL, whether it is an archive) of all places for labels, the best first.

    Args:
        stem: path or URL of the scan without ending.
        folder: what holds this scan alone; None: it lies beside others.
    """
    places: list[tuple[str, bool]] = []
    for kind in _KINDS:
        places.append((f"{stem}_2d-{kind}.zip", True))
        if folder is not None:
            places.append((join(folder, kind), False))
    return places


@contextmanager
def open_labels(places: Sequence[tuple[str, bool]]) -> Iterator[LabelImages | None]:
    """The label images of the first place that has any; None: none has.

    Raises:
        FormatError: a damaged archive, or a frame's labels twice in a folder.
    """
    for url, is_archive in places:
        if is_archive and exists(url):
            with _open_zip(url) as archive:
                yield LabelArchive(archive, url)
            return
        if not is_archive and (images := numbered_files(url, _ENDINGS)):
            yield LabelFolder(images)
            return
    yield None


@contextmanager
def _open_zip(url: str) -> Iterator[zipfile.ZipFile]:
    with open_read(url) as f:
        try:
            archive = zipfile.ZipFile(f)
        except (*_ZIP_DAMAGE, OSError) as error:
            raise FormatError(f"{url}: damaged archive; delete or download it again") from error
        with archive:
            yield archive


class LabelArchive:
    """Label images in a zip, `label-filt/<i>.png`; whatever folder a member claims is not used."""

    def __init__(self, archive: zipfile.ZipFile, url: str) -> None:
        self._archive = archive
        self._url = url
        self._members = {
            frame_number(base_name(info.filename), _ENDINGS): info for info in archive.infolist()
        }

    def png(self, index: int) -> bytes | None:
        """One member, unpacked. Raises FormatError where the archive lies about it."""
        member = self._members.get(index)
        if member is None:
            return None
        size = member.file_size
        if member.compress_type not in _METHODS:
            wrong = f"has compression method {member.compress_type}; pack it again with deflate"
        elif size > _MAX_LABEL_BYTES or member.header_offset < 0:
            wrong = f"claims {size} bytes at {member.header_offset}"
        else:
            longer = copy(member)
            longer.file_size += 1  # what goes beyond it zipfile cuts off without a word
            try:
                with self._archive.open(longer) as f:
                    data = f.read(size + 1)  # read() without a number unpacks all there is
            except _ZIP_DAMAGE as error:
                wrong = f"is damaged ({error})"
            else:
                if len(data) == size:
                    return data
                there = "more" if len(data) > size else len(data)
                wrong = f"claims {size} bytes, {there} are there; download the archive again"
        raise FormatError(f"{self._url}: {member.filename} {wrong}")


class LabelFolder:
    """Label images that lie in a folder."""

    def __init__(self, urls: dict[int, str]) -> None:
        self._urls = urls

    def png(self, index: int) -> bytes | None:
        """One file. Raises FormatError for one of a size that no label image has."""
        url = self._urls.get(index)
        if url is None:
            return None
        with open_read(url) as f:
            data = f.read(_MAX_LABEL_BYTES + 1)
        if len(data) > _MAX_LABEL_BYTES:
            raise FormatError(f"{url}: more than {_MAX_LABEL_BYTES} bytes")
        return data
