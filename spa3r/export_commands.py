"""`spa3r export`: a scene latent file as points, a COLMAP model, arrays or a preview."""

import argparse
from collections.abc import Callable
from typing import Any

HELP = """\
Writes the surface points of a scene file with its cameras.

  ending of OUT   written
  .ply            coloured points with their confidence (MeshLab, CloudCompare, Blender, Open3D)
  .glb            coloured points and camera frusta (browsers, Blender); metres where known
  none            folder with a COLMAP model (--format colmap-text: as text), in the pixels of
                  the original images, upright: where photos carry an EXIF orientation, give
                  tools that ignore it turned copies (mogrify -auto-orient)
  .npz            latents, cameras and points as arrays; the entry README explains them
  .gif .mp4       a preview that turns round the scene

The file must have been encoded with surface points (spa3r encode --points).

examples:
  spa3r export kitchen.safetensors -o kitchen.glb
  spa3r export kitchen.safetensors -o kitchen-colmap --units metres
  spa3r export kitchen.safetensors -o kitchen.gif --colour semantic \\
      --encoder models:/spa3r-encoder@champion
"""


def register(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds the command; `add` is the one of spa3r/cli.py."""
    command = add(
        "export", _export, "a scene latent file -> PLY, GLB, COLMAP, NPZ, GIF or MP4", text=HELP
    )
    command.add_argument("scene", help="scene.safetensors file or URL")
    command.add_argument("-o", "--out", required=True, help="file to write, or folder for COLMAP")
    command.add_argument(
        "--format", choices=("ply", "glb", "colmap", "colmap-text", "npz", "gif", "mp4"),
        help="default: by the ending of OUT",
    )  # fmt: skip
    command.add_argument(
        "--colour", choices=("rgb", "geometric", "semantic", "linguistic"), default="rgb",
        help="of the points: the images', or the field's features (default rgb)",
    )  # fmt: skip
    command.add_argument("--encoder", help="that made the latents; for feature colours only")
    command.add_argument(
        "--confidence", type=float, default=None, metavar="P",
        help="per cent of the points to drop, the least sure first (default 40)",
    )  # fmt: skip
    command.add_argument(
        "--max-points", type=int, default=None, metavar="N",
        help="thin out at random to at most N (default 100000 for COLMAP, 200000 for"
        " previews, else 1000000)",
    )  # fmt: skip
    command.add_argument(
        "--units", choices=("scene", "metres"),
        help="of lengths (default: metres in a GLB of known scale, else the scene's own)",
    )  # fmt: skip


def _export(arguments: Any) -> None:
    from spa3r.errors import ConfigError
    from spa3r.export.scene import CONFIDENCE, check_target, export_scene
    from spa3r.latent import SceneLatent
    from spa3r.scene_commands import load_encoder

    check_target(arguments.out, arguments.format)
    scene = SceneLatent.load(arguments.scene)
    if arguments.colour != "rgb":
        if arguments.encoder is None:
            raise ConfigError(
                f"--colour {arguments.colour} asks the field: give --encoder, the one that made"
                f" {arguments.scene}"
            )
        scene = scene.attach(load_encoder(arguments.encoder))
    elif arguments.encoder is not None:
        raise ConfigError("--encoder is for feature colours: give --colour too, or leave it out")
    confidence = CONFIDENCE if arguments.confidence is None else arguments.confidence
    exported = export_scene(
        scene, arguments.out, format=arguments.format, colour=arguments.colour,
        confidence=confidence, max_points=arguments.max_points, units=arguments.units,
    )  # fmt: skip
    print(exported.line)
