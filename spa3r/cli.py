"""The `spa3r` command. Each subcommand is one stage, a view of the data, or the whole demo."""

import argparse
import logging
import sys
from collections.abc import Sequence
from typing import Any

from spa3r import (
    ask_commands,
    chat_commands,
    check_commands,
    convert_commands,
    export_commands,
    ingest_commands,
    instruct_commands,
    question_commands,
    registry_commands,
    scene_commands,
    sweep_commands,
    target_commands,
    train_commands,
    tune_commands,
    view_commands,
)
from spa3r.errors import Spa3RError
from spa3r.recipe_options import recipe_of, recipe_options
from spa3r.storage import redacted

EPILOG = """\
Everything is written under SPA3R_HOME (default ./spa3r-home); MLFLOW_TRACKING_URI names another
registry, SPA3R_WORKERS and SPA3R_TRAIN_WORKERS the number of processes (`spa3r doctor` shows all).

A first walk:
  spa3r demo                                      the whole chain on generated rooms
  spa3r ingest /data/scannet --recipe paper       raw scans -> shards (--dry-run: what and how long)
  spa3r targets --dataset scannet --recipe paper  shards -> VGGT and DINOv3 targets
  spa3r pretrain --dataset scannet --recipe paper
  spa3r encode photos/ -o kitchen.safetensors     views -> a scene that can be asked
  spa3r view kitchen.safetensors                  the scene in the browser
  spa3r tune --recipe vlm-vsi                     instruction sets + encoder -> Spa3-VLM
  spa3r ask photos/ "How many chairs are there?"  an answer; `spa3r chat` is a page that answers
"""

GROUPS = (
    ingest_commands,
    instruct_commands,
    question_commands,
    target_commands,
    train_commands,
    registry_commands,
    sweep_commands,
    tune_commands,
    ask_commands,
    chat_commands,
    check_commands,
    scene_commands,
    export_commands,
    view_commands,
    convert_commands,
)
"""Modules that add commands, in the order of --help."""
_NOISY = ("httpx", "httpcore", "alembic", "matplotlib", "PIL", "numexpr", "botocore", "aiobotocore")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command. Returns 0, or 1 after one line of error, or 130 when interrupted."""
    arguments = _parser().parse_args(argv)
    level = logging.DEBUG if arguments.verbose else logging.INFO
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine("%(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
    for noisy in _NOISY:
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        _settings().prepare_environment()
        arguments.run(arguments)
    # OSError: a disk that fills up, a file that goes away in between.
    except (Spa3RError, OSError) as error:
        print(f"spa3r: {redacted(_one_line(str(error)))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("spa3r: interrupted; finished work is kept, run again to continue", file=sys.stderr)
        return 130
    return 0


class _OneLine(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        """The message, on one line."""
        return _one_line(super().formatMessage(record))


def _one_line(text: str) -> str:
    """File names may hold line ends and worse."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _settings() -> Any:
    from flows.settings import Settings

    return Settings.from_environment()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="spa3r",
        description="From raw scans to a registered Spa3R encoder and Spa3-VLM, from photos to a"
        " scene and to answers about it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="debug log lines")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    recipe = recipe_options()

    def add(
        name: str, run: Any, summary: str, *parents: argparse.ArgumentParser, text: str = ""
    ) -> Any:
        """A command; `text` is its --help as it is laid out, else the summary."""
        command = commands.add_parser(name, help=summary, description=summary, parents=parents)
        if text:
            command.description = text
            command.formatter_class = argparse.RawDescriptionHelpFormatter
        command.set_defaults(run=run)
        return command

    demo = add("demo", _demo, "the whole chain on generated rooms, ending in a report", recipe)
    demo.add_argument("--rooms", type=_positive, default=64, help="rooms to train on (default 64)")
    demo.add_argument("--val-rooms", type=_positive, default=12, help="held-out rooms (default 12)")
    demo.add_argument("--vlm", default="", help="tuning recipe (default: vlm-RECIPE, or vlm-tiny)")
    _add_rooms(add("rooms", _rooms, "generate furnished rooms as ScanNet releases its scans"))
    for group in GROUPS:
        group.register(add)
    add("doctor", _doctor, "what this machine has and lacks")
    return parser


def _add_rooms(rooms: argparse.ArgumentParser) -> None:
    rooms.add_argument("out", help="folder for scans, split lists and label table")
    rooms.add_argument("--count", type=int, default=4, help="number of rooms (default 4)")
    rooms.add_argument("--val", type=int, default=0, help="how many of them are held out")
    rooms.add_argument("--seed", type=int, default=0)
    rooms.add_argument("--size", default="640x480", help="WIDTHxHEIGHT in pixels")
    rooms.add_argument("--frames", type=int, default=24, help="frames a room")
    rooms.add_argument("--depth-noise", type=float, default=0.0, help="metres at 1 m")
    rooms.add_argument("--invalid-poses", type=float, default=0.0, help="share of frames")
    rooms.add_argument("--empty-depth", type=float, default=0.0, help="share of frames")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _demo(arguments: argparse.Namespace) -> None:
    from flows.demo_run import run_demo

    size = {"train_rooms": arguments.rooms, "val_rooms": arguments.val_rooms}
    run_demo(**size, vlm=arguments.vlm, **recipe_of(arguments))


def _rooms(arguments: argparse.Namespace) -> None:
    from flows.data_stages import write_room_dataset

    width, _, height = arguments.size.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        from spa3r.errors import ConfigError

        raise ConfigError(f"--size {arguments.size}: write WIDTHxHEIGHT, e.g. 640x480")
    print(
        write_room_dataset(
            arguments.out, train_rooms=arguments.count - arguments.val, val_rooms=arguments.val,
            seed=arguments.seed, width=int(width), height=int(height), frames=arguments.frames,
            depth_noise=arguments.depth_noise, invalid_pose_share=arguments.invalid_poses,
            empty_depth_share=arguments.empty_depth,
        )
    )  # fmt: skip


def _doctor(_arguments: argparse.Namespace) -> None:
    from flows.doctor import report

    print(report())


if __name__ == "__main__":
    sys.exit(main())
