"""`spa3r ingest` and `spa3r merge`: raw scans -> shards, and several datasets -> one."""

import argparse
from collections.abc import Callable
from typing import Final

from spa3r.recipe_options import recipe_of, recipe_options

INGEST_HELP: Final = """\
Turns raw scans into frame shards and a manifest, under SPA3R_SHARDS. What was done before with the
same settings is re-used: only new and changed scans are read. A run that was interrupted is
continued by the same command; the result is the same to the byte.

A scan that cannot be used does not stop the others: it is named at the end, once (exit 1), and the
manifest lists it until it changes. Benchmark scenes are never given the split "train".

  ROOT is one of          what is read
  folder or URL           a dataset's scans, in the layout they were released in (docs/data.md)
  one scan                a .sens file, or a scan's folder
  folder of photos        a scene for each folder
  video, folder of them   a scene for each video; --set ingest.frames_per_second=2

examples:
  spa3r ingest /data/scannet --recipe paper --dry-run      what would be done, and how long it takes
  spa3r ingest /data/scannet --recipe paper
  spa3r ingest s3://lab/scannet --recipe paper --ray       on the cluster of RAY_ADDRESS
  spa3r ingest scans --set ingest.stride=10 --set ingest.max_frames=300
  spa3r ingest scans --scenes scene0000_00,scene0001_00    a manifest of these two scenes
"""
MERGE_HELP: Final = """\
Makes one dataset of several that were ingested with the same recipe: a manifest that points into
their shards. Nothing is copied; ingest one of them again, and merge again. Later commands take it
by its name: `spa3r targets --dataset NAME`.

examples:
  spa3r merge indoor scannet scannetpp arkitscenes --recipe paper
  spa3r targets --dataset indoor --recipe paper
"""


def register(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds both commands; `add` is the one of spa3r/cli.py."""
    ingest = add(
        "ingest", _ingest, "raw scans -> frame shards and manifest", recipe_options(),
        text=INGEST_HELP,
    )  # fmt: skip
    ingest.add_argument("root", metavar="ROOT", help="folder or URL of raw scans")
    ingest.add_argument("--dataset", default="", help="name to keep it under (default: by layout)")
    ingest.add_argument(
        "--scenes", type=_names, default=None, metavar="A,B",
        help="only these scenes; the manifest then holds no others",
    )  # fmt: skip
    ingest.add_argument(
        "--ray", action="store_true",
        help="on the Ray cluster of RAY_ADDRESS (unset: a Ray of this machine)",
    )  # fmt: skip
    ingest.add_argument(
        "--dry-run", action="store_true", help="say what would be done and how long it would take"
    )
    merge = add("merge", _merge, "several datasets -> one", recipe_options(), text=MERGE_HELP)
    merge.add_argument("name", metavar="NAME", help="name of the new dataset")
    merge.add_argument("datasets", nargs="+", metavar="DATASET", help="name of an ingested dataset")


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError(f"{text!r} names no scene")
    return names


def _ingest(arguments: argparse.Namespace) -> None:
    from flows import ingest_stage

    common = {"dataset": arguments.dataset, "scenes": arguments.scenes, **recipe_of(arguments)}
    if arguments.dry_run:
        print(ingest_stage.dry_run(arguments.root, **common))
    else:
        print(ingest_stage.ingest(arguments.root, ray=arguments.ray, **common).line)


def _merge(arguments: argparse.Namespace) -> None:
    from flows import ingest_stage

    print(ingest_stage.merge(arguments.name, arguments.datasets, **recipe_of(arguments)).line)
