"""`spa3r convert`: the authors' checkpoints into this platform's own format."""

import argparse
from collections.abc import Callable
from typing import Any

HELP = """\
Reads one of the authors' checkpoints and writes what was trained, without its frozen teachers.

  source                                        written
  Lightning checkpoint of Spa3R (.ckpt)         OUT/{model.safetensors, config.json, README.md}
  Spa3R state dict (.pt, .safetensors)          the same
  Spa3-VLM (folder or hustvl/Spa3-VLM)          OUT/encoder/ as above, and
                                                OUT/adapter/{model.safetensors, config.json}
  any of them, with --teacher FOLDER            FOLDER/{model.safetensors, config.json}: its VGGT

Every tensor of the source must be known, and none missing or misshapen; otherwise all misfits are
named and nothing is written. The language model of Spa3-VLM, which was trained with the adapter,
stays where it is.

The authors' code rebuilds VGGT with RMSNorm instead of LayerNorm on the queries and keys of its
global blocks. A checkpoint whose norms there have no bias is recorded with the teacher variant
"rms", and its encoder then loads facebook/VGGT-1B as that variant. Give --teacher if the source
holds its VGGT in half precision (another VGGT by its hash), or to save the second download. Beside
OUT or in it, it is found by its path from the encoder; from elsewhere, name it in SPA3R_TEACHER.

No folder of the source, and none with files of others in it, is written to.

examples:
  spa3r convert epoch=1-step=80000.ckpt -o spa3r-release
  spa3r convert hustvl/Spa3-VLM -o spa3-vlm --teacher vggt-rms
  spa3r encode photos/ --encoder spa3-vlm/encoder -o scene.safetensors
"""


def register(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds the command; `add` is the one of spa3r/cli.py."""
    command = add(
        "convert", _convert, "a checkpoint of the authors -> an encoder of ours", text=HELP
    )
    command.add_argument("source", help="file, folder, URL or Hugging Face id")
    command.add_argument("-o", "--out", required=True, help="folder to write")
    command.add_argument(
        "--teacher", default=None, metavar="FOLDER", help="write the VGGT inside the source here"
    )


def _convert(arguments: Any) -> None:
    from spa3r.convert.checkpoint import convert

    print(convert(arguments.source, arguments.out, teacher_out=arguments.teacher).line)
