"""Official split lists: which scans may be trained on. Benchmark scans must never leak in."""

from spa3r.errors import FormatError
from spa3r.storage import exists, join, read_bytes

SPLITS = ("train", "val", "test")


def read_scannet_splits(root: str) -> dict[str, str]:
    """Scan name -> split, from scannetv2_{train,val,test}.txt in root; {} where there are none.

    Raises:
        FormatError: a scan stands in two lists.
    """
    split_of: dict[str, str] = {}
    for split in SPLITS:
        url = join(root, f"scannetv2_{split}.txt")
        if not exists(url):
            continue
        for name in read_bytes(url).decode().split():
            if split_of.setdefault(name, split) != split:
                raise FormatError(
                    f"{url}: scan {name} is in the {split_of[name]} list too; correct the lists"
                )
    return split_of
