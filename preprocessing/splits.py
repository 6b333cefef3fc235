"""Split lists: which scans may be trained on. Benchmark scans must never leak in."""

from spa3r.errors import FormatError
from spa3r.storage import exists, join, read_bytes

SPLITS = ("train", "val", "test")
SCANNET_LISTS = {split: f"scannetv2_{split}.txt" for split in SPLITS}


def read_scannet_splits(root: str) -> dict[str, str]:
    """Scan name -> split, from scannetv2_{train,val,test}.txt in root; {} where there are none.

    Raises:
        FormatError: a scan stands in two lists, or a list is no text.
    """
    return _read_lists({split: join(root, name) for split, name in SCANNET_LISTS.items()})


def read_splits(root: str) -> dict[str, str]:
    """Name of a folder or file -> split, for data without official lists; {} where there are none.

    The lists are train.txt, val.txt and test.txt in root, or else in root/splits: one name a line,
    as it stands in root, blanks included. Empty lines and lines that begin with # say nothing.

    Raises:
        FormatError: a scene stands in two lists, or a list is no text.
    """
    folders = (root, join(root, "splits"))
    lists = ({split: join(folder, f"{split}.txt") for split in SPLITS} for folder in folders)
    return next((split_of for urls in lists if (split_of := _read_lists(urls))), {})


def _read_lists(urls: dict[str, str]) -> dict[str, str]:
    split_of: dict[str, str] = {}
    for split, url in urls.items():
        for name in read_names(url) if exists(url) else ():
            if split_of.setdefault(name, split) != split:
                raise FormatError(
                    f"{url}: scan {name} is in the {split_of[name]} list too; correct the lists"
                )
    return split_of


def read_names(url: str) -> list[str]:
    """Lines of a text file without blanks around them, empty ones and comments (#).

    Raises:
        FormatError: not UTF-8.
    """
    try:
        lines = read_bytes(url).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise FormatError(f"{url}: not a text of names, one a line; save it as UTF-8") from error
    names = (line.strip() for line in lines)
    return [name for name in names if name and not name.startswith("#")]
