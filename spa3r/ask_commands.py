"""`spa3r ask`: questions about photos, a video or a scan, answered by a Spa3-VLM."""

import argparse
import logging
import os.path
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from spa3r.instructions import MediaKind
    from spa3r.vision_input import SceneViews
    from spa3r.vlm.spa3_vlm import Spa3VLM

log = logging.getLogger(__name__)

CANDIDATE: Final = "models:/spa3-vlm@candidate"
ASK_HELP: Final = """\
Answers a question about a space. The answer is printed while it is written.

  PHOTOS is one of        what is looked at
  image files             all of them, in this order; the first defines the world
  folder of photos        photos, evenly spread
  video                   frames, evenly spread
  scan (.sens, folder)    posed RGB-D frames, evenly spread
  SHARDS/SCENE            the frames of a scene of an ingested dataset, evenly spread

An encoder taught by rgbd needs depth and cameras: a scan. With --jsonl the questions come from a
file, one object a line: {"id", "question", and "images": [...] or "video" or "scan"}; relative
places are looked for beside that file. A line that cannot be answered gets {"id", "line", "reason",
"error"} and does not stop the others (exit 1). An interrupted run is continued by the same command.

examples:
  spa3r ask photos/ "How many chairs are there?" --model spa3-vlm/
  spa3r ask 1.jpg 2.jpg "Is the lamp left or right of the sofa?"
  spa3r ask spa3r-home/shards/rooms-cc3cc80d/scene0003_00 "How many chairs are there?"
  spa3r ask --jsonl questions.jsonl -o answers.jsonl
"""
_IMAGES: Final = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


def register(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds the command; `add` is the one of spa3r/cli.py."""
    ask = add("ask", _ask, "a question about photos or a scan -> an answer", text=ASK_HELP)
    ask.add_argument("words", nargs="*", metavar="PHOTOS... QUESTION", help="see above")
    ask.add_argument("--jsonl", metavar="FILE", help="questions, one JSON object a line")
    ask.add_argument("-o", "--out", metavar="FILE", help="answers to write, with --jsonl")
    ask.add_argument(
        "--model", default=CANDIDATE, help=f"registry URI, folder or hub id ({CANDIDATE})"
    )
    ask.add_argument("--encoder", help="its encoder, if not at the recorded place")
    ask.add_argument("--base", help="its base, if not at the recorded place")
    ask.add_argument(
        "--max-new-tokens", type=_positive, default=64, metavar="N",
        help="of an answer at most (default 64)",
    )  # fmt: skip
    ask.add_argument(
        "--batch-size", type=_positive, default=1, metavar="N",
        help="questions that are answered together, with --jsonl (default 1)",
    )  # fmt: skip
    ask.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: a GPU if there is)")
    ask.add_argument(
        "--dtype", choices=("auto", "float32", "bfloat16"), default="auto",
        help="of the language model (auto: bfloat16 on a GPU that has it)",
    )  # fmt: skip


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def load_vlm(
    where: str,
    *,
    encoder: str | None = None,
    base: str | None = None,
    device: str | None = None,
    dtype: str = "auto",
) -> "Spa3VLM":
    """The model that a command names; the registry is the one that the environment names.

    Args:
        device: None: the first GPU, or the CPU where there is none.
    """
    import torch

    from spa3r.vlm.spa3_vlm import Spa3VLM

    if where.startswith("models:/"):
        from flows.settings import Settings
        from spa3r.extras import needed_for
        from spa3r.train.servers import existing_store

        with needed_for(where, "platform", instead="give --model FOLDER or a Hugging Face id"):
            from spa3r.train.tracking import connect
        connect(existing_store(Settings.from_environment().mlflow_uri))
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return Spa3VLM.from_pretrained(
        where, encoder=encoder, base=base, device=chosen, dtype=dtype  # type: ignore[arg-type]
    )  # fmt: skip


def read_scan(vlm: "Spa3VLM", path: str) -> "SceneViews":
    """Views of a scan, or of a folder of photos, at the model's working size.

    Raises:
        SceneError, FormatError, ImageError: nothing usable there.
    """
    from dataclasses import replace

    from preprocessing.views import read_views

    config = vlm.card.vlm
    found = read_views(
        path, width=config.image_width, multiple=config.image_multiple,
        max_views=config.max_frames,
    )  # fmt: skip
    views = vlm.views(**found.arrays)
    return replace(views, names=found.names, source_sizes=found.source_sizes)


def _ask(arguments: Any) -> None:
    from spa3r.errors import ConfigError

    if arguments.jsonl is not None:
        if arguments.words or not arguments.out:
            raise ConfigError(
                "--jsonl FILE needs -o OUT and takes no photos or question beside the file's"
            )
        _ask_file(arguments)
        return
    if len(arguments.words) < 2 or arguments.out:
        raise ConfigError(
            'write: spa3r ask PHOTOS... "QUESTION" (its answer is printed), or --jsonl FILE -o OUT'
        )
    _ask_once(arguments)


def _load(arguments: Any) -> "Spa3VLM":
    return load_vlm(
        arguments.model, encoder=arguments.encoder, base=arguments.base, device=arguments.device,
        dtype=arguments.dtype,
    )  # fmt: skip


def _ask_once(arguments: Any) -> None:
    from spa3r.errors import ConfigError
    from spa3r.instructions import Turn
    from spa3r.vlm.ask import Reader
    from spa3r.vlm.spa3_vlm import Request

    *paths, question = arguments.words
    # Path.exists raises for a question longer than a path may be.
    if os.path.exists(question) or question.lower().endswith(_IMAGES):  # noqa: PTH110
        raise ConfigError(f"{question} is a file: the last word is the question, in quotes")
    vlm = _load(arguments)
    reader = Reader(vlm, "", lambda path: read_scan(vlm, path))
    views = reader.views(kind_of(paths), paths)
    log.info("asking about %d views (%s)", len(views.rgb_VHW3), ", ".join(views.names))
    request = Request(turns=(Turn(role="user", text=question),), views=views)
    for piece in vlm.stream(request, max_new_tokens=arguments.max_new_tokens):
        print(piece, end="", flush=True)
    print()


def kind_of(paths: Sequence[str]) -> "MediaKind":
    """What a command's paths name. Raises ConfigError for a mixture."""
    from spa3r.data.media import is_video
    from spa3r.errors import ConfigError

    if all(path.lower().endswith(_IMAGES) for path in paths):
        return "images"
    if len(paths) > 1:
        odd = next(path for path in paths if not path.lower().endswith(_IMAGES))
        raise ConfigError(
            f"{odd}: several places are taken as image files ({', '.join(_IMAGES)}); name images"
            " alone, or one folder, video or scan, and put the question in quotes"
        )
    return "video" if is_video(paths[0]) else "scan"


def _ask_file(arguments: Any) -> None:
    from spa3r import storage
    from spa3r.errors import FormatError
    from spa3r.vlm.ask import answer_file

    storage.check_writable(arguments.out)
    vlm = _load(arguments)
    outcome = answer_file(
        vlm,
        arguments.jsonl,
        arguments.out,
        max_new_tokens=arguments.max_new_tokens,
        batch_size=arguments.batch_size,
        read_scan=lambda path: read_scan(vlm, path),
    )
    if outcome.errors:
        raise FormatError(f"{arguments.out}: {outcome.line}; their lines say why")
    print(f"{arguments.out}: {outcome.line}")
