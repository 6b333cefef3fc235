"""`spa3r verify` and `spa3r show`: are the shards right, and what is in them?"""

import argparse
from collections.abc import Callable
from dataclasses import asdict
from typing import Final

from spa3r.errors import ShardError
from spa3r.recipe_options import recipe_of, recipe_options

VERIFY_HELP: Final = """\
Reads every shard of a dataset again and reports what is wrong: checksums and sizes against the
sidecars, tar members against the manifest, images that do not decode, intrinsics that are no
camera's, and poses that contradict the depth of neighbouring frames. Ends with 1 if anything is.

examples:
  spa3r verify spa3r-home/shards/scannet-5d960280
  spa3r verify s3://bucket/shards/scannet-5d960280/manifest.json --json report.json
"""
SHOW_HELP: Final = """\
Draws an ingested scene: a contact sheet of its frames, colour above depth, and, where it has poses,
its points from above and from the side with the way the camera went. Of a scene latent file
it prints what the file holds.

examples:
  spa3r show scene0000_00 --dataset rooms
  spa3r show kitchen.safetensors
"""


def register(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds both commands; `add` is the one of spa3r/cli.py."""
    verify = add(
        "verify", _verify, "shards of a dataset -> what is wrong with them", text=VERIFY_HELP
    )
    verify.add_argument("manifest", help="folder of a dataset's shards, or the manifest in it")
    verify.add_argument(
        "--json", default=None, metavar="FILE", help="also write all findings there"
    )
    show = add(
        "show", _show, "pictures of an ingested scene, or facts of a file", recipe_options(),
        text=SHOW_HELP,
    )  # fmt: skip
    show.add_argument("--dataset", default="rooms", help="name of the ingested dataset")
    show.add_argument("what", help="scene name, or a scene.safetensors file")
    show.add_argument("-o", "--out", default=None, help="PNG to write (default: <scene>.png)")


def _verify(arguments: argparse.Namespace) -> None:
    from flows.verify import report, verify
    from spa3r import storage

    if arguments.json:
        storage.check_writable(arguments.json)
    own, checks = verify(arguments.manifest)
    if arguments.json:
        scenes = [asdict(check) for check in checks]
        storage.write_json(arguments.json, {"manifest": own, "scenes": scenes})
    *faults, summary = report(own, checks, arguments.manifest)
    for fault in faults:
        print(fault)
    if faults:
        raise ShardError(summary)
    print(summary)


def _show(arguments: argparse.Namespace) -> None:
    from flows.show import show

    print(
        show(arguments.what, dataset=arguments.dataset, out=arguments.out, **recipe_of(arguments))
    )
