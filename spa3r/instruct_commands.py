"""`spa3r instruct`: published instruction data -> an instruction set for tuning."""

import argparse
from collections.abc import Callable
from typing import Final

INSTRUCT_HELP: Final = """\
Imports questions and answers for tuning, in their published form, as an instruction set under
SPA3R_INSTRUCTIONS. Rows that cannot be used are left out and counted by reason: malformed
conversations, media that are absent or not under --media, markers outside the picture, scenes that
benchmarks ask about.

  SOURCE        ANNOTATIONS
  vsi-590k      VSI-590K's .jsonl
  spar          SPAR's .json or .jsonl; markers are drawn when images are read
  llava-hound   questions about folders of frames
  vlm-3r        VSI-Bench's prompts about ScanNet, ScanNet++ and ARKitScenes videos
  vg-llm        the list format of VG-LLM and Spa3R; FILE%10 takes ten percent of its rows

examples:
  spa3r instruct vsi-590k vsi_590k.jsonl --media /data/VSI-590K
  spa3r instruct vg-llm train/spar_234k.json --media /data/media --name spar
  spa3r instruct --check spar                       whether a set and its media are whole
"""


def register(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds the command; `add` is the one of spa3r/cli.py."""
    instruct = add(
        "instruct", _instruct, "published questions and answers -> an instruction set",
        text=INSTRUCT_HELP,
    )  # fmt: skip
    instruct.add_argument("source", nargs="?", metavar="SOURCE", help="format of the annotations")
    instruct.add_argument("annotations", nargs="?", metavar="ANNOTATIONS", help="file or URL")
    instruct.add_argument("--media", metavar="ROOT", help="folder or URL of images and videos")
    instruct.add_argument("--name", default="", help="name of the set (default: the source's)")
    instruct.add_argument(
        "--allow-benchmark-scenes", action="store_true",
        help="keep conversations about scenes that benchmarks ask about",
    )  # fmt: skip
    instruct.add_argument("--check", metavar="SET", help="read a set again instead; name or place")


def _instruct(arguments: argparse.Namespace) -> None:
    from flows import instruct_stage
    from spa3r.errors import ConfigError

    if arguments.check and arguments.source:
        raise ConfigError("--check SET reads a set again and imports nothing; leave SOURCE out")
    if arguments.check:
        print(instruct_stage.check(arguments.check).line)
        return
    if not (arguments.source and arguments.annotations and arguments.media):
        raise ConfigError("name SOURCE, ANNOTATIONS and --media ROOT, or --check SET; see --help")
    print(
        instruct_stage.instruct(
            arguments.source, arguments.annotations, media=arguments.media, name=arguments.name,
            benchmark_scenes=arguments.allow_benchmark_scenes,
        ).line
    )  # fmt: skip
