"""Scans of a folder of frame shards, for the page to choose from."""

from dataclasses import dataclass

from spa3r.chat_page.seen import Scans
from spa3r.data.media import MediaReader, answering_frames
from spa3r.data.shards import FrameTable
from spa3r.instructions import MediaKind
from spa3r.tune_config import VlmConfig
from spa3r.vision_input import SceneViews


@dataclass(frozen=True)
class _Scan:
    media: tuple[str, ...]
    media_kind: MediaKind = "scan"


def shard_scans(folder: str, vlm: VlmConfig) -> Scans:
    """The scenes of a folder of frame shards, held-out ones first; each is looked at in as many
    evenly spaced frames as the model takes.

    Raises:
        ShardError: no manifest there, or one of another schema.
    """
    table, reader = FrameTable(folder), MediaReader(folder)
    scenes = listed({scene: table.split(scene) for scene in table.scenes()})

    def read(name: str) -> SceneViews:
        views = reader.views(_Scan((scenes[name],)), vlm, answering_frames(vlm))
        assert views is not None, "a scan has views"
        return views

    return Scans(names=tuple(scenes), read=read)


def listed(split_of: dict[str, str]) -> dict[str, str]:
    """What is shown of each scene -> its name: those held out from training first, which is said
    of them."""
    order = sorted(split_of, key=lambda scene: (split_of[scene] not in ("val", "test"), scene))
    return {
        f"{scene} (held out)" if split_of[scene] in ("val", "test") else scene: scene
        for scene in order
    }
