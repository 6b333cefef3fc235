"""`spa3r chat`: a page on this machine where photos or scans are asked about."""

import argparse
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from spa3r.chat_page.seen import Scans
    from spa3r.vlm.spa3_vlm import Spa3VLM

log = logging.getLogger(__name__)

CANDIDATE: Final = "models:/spa3-vlm@candidate"
PORT: Final = 8090
HELP: Final = """\
Serves a page on this machine alone, until Ctrl-C: drop photos or choose a scan, see what the
encoder makes of them, ask, and see which views the answer came from. The page loads nothing from
elsewhere; photos stay in memory. An encoder taught by rgbd needs depth and cameras: scans alone.

examples:
  spa3r chat                                      the candidate, the generated rooms
  spa3r chat --model spa3-vlm/ --port 8091
  spa3r chat --scans spa3r-home/shards/rooms-1acce024
"""


def register(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds the command; `add` is the one of spa3r/cli.py."""
    command = add("chat", _chat, "ask about photos or scans in the browser", text=HELP)
    command.add_argument(
        "--model", default=CANDIDATE, help=f"registry URI, folder or hub id ({CANDIDATE})"
    )
    command.add_argument("--encoder", help="its encoder, if not at the recorded place")
    command.add_argument("--base", help="its base, if not at the recorded place")
    command.add_argument(
        "--scans", metavar="FOLDER",
        help="scans to choose from: a dataset, or frame shards (default: SPA3R_HOME/rooms)",
    )  # fmt: skip
    command.add_argument(
        "--host", default="127.0.0.1",
        help="address to listen on (default 127.0.0.1: this machine alone; there is no password)",
    )  # fmt: skip
    command.add_argument("--port", type=int, default=PORT, help=f"(default {PORT})")
    command.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: a GPU if there is)")
    command.add_argument(
        "--dtype", choices=("auto", "float32", "bfloat16"), default="auto",
        help="of the language model (auto: bfloat16 on a GPU that has it)",
    )  # fmt: skip


def _chat(arguments: Any) -> None:
    from spa3r.ask_commands import load_vlm
    from spa3r.chat_page import ChatPage
    from spa3r.chat_page.vlm_chat import VlmChat
    from spa3r.loopback import is_loopback

    vlm = load_vlm(
        arguments.model, encoder=arguments.encoder, base=arguments.base, device=arguments.device,
        dtype=arguments.dtype,
    )  # fmt: skip
    page = ChatPage(
        VlmChat(vlm), scans=_scans(vlm, arguments.scans), host=arguments.host, port=arguments.port
    )
    if not is_loopback(arguments.host):
        log.warning(
            "%s is no loopback address: whoever reaches it may ask and upload, without a password",
            arguments.host,
        )
    print(f"{page.url} answers; Ctrl-C ends it", flush=True)
    page.wait()


def _scans(vlm: "Spa3VLM", folder: str | None) -> "Scans":
    """The scans of a folder; of no folder the generated rooms, if there are some."""
    from flows.settings import Settings
    from spa3r import storage
    from spa3r.chat_page.seen import Scans
    from spa3r.chat_page.shards import shard_scans

    if folder is None:
        rooms = Settings.from_environment().rooms
        if not rooms.exists():
            return Scans()
        folder = str(rooms)
    if storage.exists(storage.join(folder, "manifest.json")):
        return shard_scans(folder, vlm.card.vlm)
    return _dataset_scans(vlm, folder)


def _dataset_scans(vlm: "Spa3VLM", folder: str) -> "Scans":
    """Scans of a dataset as its sensor wrote them."""
    from preprocessing.sources import find_scenes
    from spa3r.ask_commands import read_scan
    from spa3r.chat_page.seen import Scans
    from spa3r.chat_page.shards import listed

    _, sources = find_scenes(folder)
    urls = {source.name: source.url for source in sources}
    scenes = listed({source.name: source.split for source in sources})
    return Scans(names=tuple(scenes), read=lambda name: read_scan(vlm, urls[scenes[name]]))
