"""`spa3r encode` and `spa3r query`: views -> a scene file, a scene file -> what its field shows."""

import argparse
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from spa3r.camera import Camera
    from spa3r.hub import Spa3REncoder
    from spa3r.latent import SceneLatent

log = logging.getLogger(__name__)

CANDIDATE: Final = "models:/spa3r-encoder@candidate"
NUM_VIEWS: Final = 8
FRAMES: Final = 60
_IMAGES: Final = (".jpg", ".jpeg", ".png", ".webp", ".bmp")

ENCODE_HELP: Final = """\
Encodes views into a scene file: latents, cameras of the views, and the teacher's depth, thinned.

  VIEWS is one of         what is read
  scan (.sens, folder)    posed RGB-D frames, evenly spread
  folder of photos        photos, evenly spread
  image files             all of them, in this order; the first defines the world

examples:
  spa3r encode photos/ -o kitchen.safetensors --encoder spa3-vlm/encoder
  spa3r encode 1.jpg 2.jpg 3.jpg -o kitchen.safetensors --encoder spa3-vlm/encoder
  spa3r encode scans/scene0000_00 -o scene.safetensors --num-views 12
"""
QUERY_HELP: Final = """\
Asks the field of a scene file for features and depth at cameras. Writes OUT.npz, and a picture of
features and depth side by side where OUT ends in .png (one camera), .gif or .mp4 (several).

  cameras                 what is asked
  --view N                a context view of the scene (the default: view 0)
  --trajectory NAME       orbit or dolly from view 0, or interpolate through all views
  --cameras FILE          {"convention": "opencv" | "opengl" | "colmap", "cameras":
                          [{"pose": 4 x 4, "K": 3 x 3, "size": [width, height]}, ...]}
                          in the scene's world and unit of length; K in pixels of an
                          image of that size, without size of the working image

examples:
  spa3r query kitchen.safetensors -o view.png --view 2
  spa3r query kitchen.safetensors -o round.gif --trajectory orbit --frames 90
"""


def register(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds both commands; `add` is the one of spa3r/cli.py."""
    encode = add("encode", _encode, "a scan or photos -> a scene file", text=ENCODE_HELP)
    encode.add_argument("views", nargs="+", metavar="VIEWS", help="a scan, a folder, or images")
    encode.add_argument("-o", "--out", required=True, help="scene.safetensors to write")
    encode.add_argument("--teacher", default=None, help="where the encoder's teacher lies")
    encode.add_argument(
        "--num-views", type=_count, default=None, metavar="N",
        help=f"views to use, evenly spread; 0: all (default: {NUM_VIEWS} of a scan or folder, all"
        " images that are named)",
    )  # fmt: skip
    encode.add_argument(
        "--points", type=_count, default=None, metavar="N",
        help="surface points to keep at most; 0: none (default 64000)",
    )  # fmt: skip
    query = add("query", _query, "a scene file -> features and depth", text=QUERY_HELP)
    query.add_argument("scene", help="scene.safetensors file or URL")
    query.add_argument("-o", "--out", required=True, help=".npz, .png, .gif or .mp4 file to write")
    cameras = query.add_mutually_exclusive_group()
    cameras.add_argument("--view", type=int, default=0, metavar="N", help="context view")
    cameras.add_argument("--trajectory", choices=("orbit", "dolly", "interpolate"))
    cameras.add_argument("--cameras", metavar="FILE", help="JSON file")
    query.add_argument(
        "--frames", type=_count, default=FRAMES, metavar="N",
        help=f"cameras of a trajectory (default {FRAMES})",
    )  # fmt: skip
    for command in (encode, query):
        command.add_argument(
            "--encoder", default=CANDIDATE, help=f"registry URI, folder or hub id ({CANDIDATE})"
        )
        command.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: a GPU if there is)")
        command.add_argument(
            "--dtype", choices=("auto", "float32", "bfloat16"), default="auto",
            help="of matrix products (auto: bfloat16 on a GPU that has it)",
        )  # fmt: skip


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)


def load_encoder(
    where: str, *, teacher: str | None = None, device: str | None = None, dtype: str = "auto"
) -> "Spa3REncoder":
    """The encoder that a command names; the registry is the one that the environment names.

    Args:
        device: None: the first GPU, or the CPU where there is none.
    """
    import torch

    from spa3r.hub import Spa3REncoder

    if where.startswith("models:/"):
        from flows.settings import Settings
        from spa3r.extras import needed_for
        from spa3r.train.servers import existing_store

        cure = "give --encoder FOLDER or a Hugging Face id"
        with needed_for(where, "platform", instead=cure):
            from spa3r.train.tracking import connect
        connect(existing_store(Settings.from_environment().mlflow_uri))
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return Spa3REncoder.from_pretrained(where, teacher=teacher, device=device, dtype=dtype)  # type: ignore[arg-type]


# --- encode ---------------------------------------------------------------------------------------


def _encode(arguments: Any) -> None:
    from dataclasses import replace

    from spa3r import storage
    from spa3r.encode import SURFACE_POINTS

    storage.check_writable(arguments.out)
    encoder = load_encoder(
        arguments.encoder, teacher=arguments.teacher, device=arguments.device,
        dtype=arguments.dtype,
    )  # fmt: skip
    points = SURFACE_POINTS if arguments.points is None else arguments.points
    paths: list[str] = arguments.views
    if len(paths) > 1 or paths[0].lower().endswith(_IMAGES):
        chosen = _spread(paths, arguments.num_views or 0)
        _announce(encoder, len(chosen))
        scene = encoder.encode(chosen, surface_points=points)
    else:
        from preprocessing.views import read_views

        wanted = NUM_VIEWS if arguments.num_views is None else arguments.num_views
        log.info("reading views of %s", paths[0])
        found = read_views(
            paths[0], width=encoder.image_width, multiple=encoder.card.image_multiple,
            max_views=wanted,
        )  # fmt: skip
        _announce(encoder, len(found.names))
        scene = encoder.encode(**found.arrays, surface_points=points)
        scene = replace(scene, names=found.names, source_sizes=found.source_sizes)
    scene.save(arguments.out)
    print(f"{arguments.out}: {scene.summary()}")


def _spread(paths: Sequence[str], most: int) -> list[str]:
    """At most so many of the paths, evenly spread, the first and last among them; 0: all."""
    count = min(most or len(paths), len(paths))
    step = (len(paths) - 1) / max(1, count - 1)
    return [paths[round(i * step)] for i in range(count)]


def _announce(encoder: "Spa3REncoder", num_views: int) -> None:
    teacher = encoder.card.references["geometric"]["kind"]
    log.info(
        "encoding %d views with teacher %s on %s in %s",
        num_views, teacher, encoder.device, encoder.precision,
    )  # fmt: skip


# --- query ----------------------------------------------------------------------------------------


def _query(arguments: Any) -> None:
    from spa3r import storage
    from spa3r.field_files import check_picture_path, output_files, write_field, write_picture
    from spa3r.latent import SceneLatent

    arrays, *pictures = written = output_files(arguments.out)
    for path in written:
        storage.check_writable(path)
    scene = SceneLatent.load(arguments.scene)
    scene = scene.attach(
        load_encoder(arguments.encoder, device=arguments.device, dtype=arguments.dtype)
    )
    cameras = _cameras(arguments, scene)
    check_picture_path(arguments.out, len(cameras))
    log.info("asking the field at %d cameras", len(cameras))
    views = scene.query(cameras)
    write_field(views, arrays)
    for picture in pictures:
        write_picture(views, picture)
    print(f"{', '.join(written)}: {', '.join(views.kinds)} and depth at {len(cameras)} cameras of"
          f" {views.grid_hw[0]} x {views.grid_hw[1]} patches")  # fmt: skip


def _cameras(arguments: Any, scene: "SceneLatent") -> list["Camera"]:
    from spa3r.camera import context_camera
    from spa3r.field_files import read_cameras
    from spa3r.trajectories import TRAJECTORIES

    if arguments.cameras is not None:
        return read_cameras(arguments.cameras)
    if arguments.trajectory is not None:
        return TRAJECTORIES[arguments.trajectory](scene, num_views=arguments.frames)
    return [context_camera(scene, arguments.view)]
