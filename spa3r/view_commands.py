"""`spa3r view`: a scene latent file in the browser."""

import argparse
from collections.abc import Callable
from typing import Any

HELP = """\
Serves a page with the scene's points and cameras on this machine alone, until Ctrl-C.

With --encoder (the one that made the latents) also the features that the field predicts: as colours
of the points, and with the predicted depth for a camera that a slider moves along a trajectory. The
encoder's teacher is not needed.

examples:
  spa3r view kitchen.safetensors
  spa3r view kitchen.safetensors --encoder models:/spa3r-encoder@champion --trajectory dolly
"""


def register(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds the command; `add` is the one of spa3r/cli.py."""
    command = add("view", _view, "a scene latent file in the browser", text=HELP)
    command.add_argument("scene", help="scene.safetensors file or URL")
    command.add_argument("--encoder", help="that made the latents: registry URI, folder or hub id")
    command.add_argument(
        "--host", default="127.0.0.1",
        help="address to listen on (default 127.0.0.1: this machine alone; there is no password)",
    )  # fmt: skip
    command.add_argument("--port", type=int, default=8080, help="(default 8080)")
    command.add_argument(
        "--trajectory", choices=("orbit", "dolly", "interpolate"), default="orbit",
        help="path of the camera that the field is asked from (default orbit)",
    )  # fmt: skip


def _view(arguments: Any) -> None:
    from spa3r.latent import SceneLatent
    from spa3r.scene_commands import load_encoder
    from spa3r.viewer import view

    scene = SceneLatent.load(arguments.scene)
    if arguments.encoder is not None:
        scene = scene.attach(load_encoder(arguments.encoder))
    viewer = view(scene, host=arguments.host, port=arguments.port, trajectory=arguments.trajectory)
    print("Ctrl-C ends it", flush=True)
    viewer.wait()
