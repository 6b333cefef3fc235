"""`convert`: a checkpoint of the authors becomes an encoder folder of ours.

Their files hold the frozen teachers too. Of those only the hashes are kept, which decide at use
whether a teacher at hand is the one that taught this student; VGGT is written out on request.

The authors' code rebuilds VGGT's global blocks with RMSNorm on queries and keys, and loses the
LayerNorm biases in doing so (reference.md 2.2, no. 8). A student of that network needs that same
network: where the biases are absent the teacher is recorded, and written, as the "rms" variant.
"""

import logging
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import safetensors.torch
import torch
from torch import Tensor

from spa3r import storage
from spa3r.config import TeacherSpec
from spa3r.convert.layout import Kind, Parts, split
from spa3r.convert.places import ADAPTER, ADAPTER_FORMAT, ENCODER, check_places, recorded_place
from spa3r.convert.sizes import AdapterSizes, Plan, plan
from spa3r.convert.values import check_values
from spa3r.errors import WeightsError
from spa3r.hub import EncoderCard, Spa3REncoder
from spa3r.licences import licence_of_teacher
from spa3r.teachers.checkpoints import load_nested, load_strict
from spa3r.teachers.dinov3 import DinoV3Teacher, load_dinov3
from spa3r.teachers.vggt import VggtConfig, save_vggt
from spa3r.teachers.vggt_teacher import VggtTeacher

log = logging.getLogger(__name__)

RELEASE_DATASETS: Final = ("scannet", "scannetpp")
"""What the authors' configuration trains on (reference.md 2.1)."""
IMAGE_WIDTH, IMAGE_MULTIPLE = 518, 14
_COMPILED: Final = re.compile(r"(?:(?<=\.)|^)_orig_mod\.")
"""What torch.compile puts into the names of a module that it wraps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Converted:
    """What one conversion wrote."""

    kind: Kind
    encoder: str
    """Folder of the encoder."""
    encoder_hash: str
    adapter: str | None
    """Folder of the fusion adapter, of a Spa3-VLM only."""
    teacher: dict[str, str]
    """Reference to the geometric teacher: kind, uri, hash, variant, licence."""
    teacher_folder: str | None
    """Where the teacher was written, if it was."""
    num_base: int
    """Tensors of the language model, left where they are."""

    @property
    def line(self) -> str:
        variant = self.teacher["variant"].partition("/")[0]
        biases = "without" if variant == "rms" else "with"
        place = f"expected at {self.teacher['uri']}"
        if self.teacher_folder is not None:
            place = f"written to {self.teacher_folder}"
            if self.teacher["uri"] == TeacherSpec().geometric_uri:
                place += " (not in one tree with the encoder: name it in SPA3R_TEACHER)"
        parts = [f"{self.encoder}: encoder {self.encoder_hash}"]
        if self.adapter is not None:
            parts.append(f"{self.adapter}: fusion adapter")
            parts.append(f"{self.num_base} tensors of the language model left in place")
        parts.append(
            f"teacher VGGT {self.teacher['hash']}, variant {variant} (the checkpoint has its QK"
            f" norm {biases} biases), {place}"
        )
        return "; ".join(parts)


def convert(
    source: str | Path,
    out: str | Path,
    *,
    teacher_out: str | Path | None = None,
    vggt: VggtConfig | None = None,
) -> Converted:
    """Converts the authors' Lightning checkpoint, a Spa3R state dict, or Spa3-VLM.

    The encoder goes to `out`, or for Spa3-VLM to `out`/encoder with the fusion adapter in
    `out`/adapter. The same input gives the same bytes; each config.json is written last.

    Args:
        source: file, folder, fsspec URL or Hugging Face id.
        teacher_out: folder for the frozen VGGT inside, in float32. Beside `out` or in it, it is
            recorded by its path from the encoder's folder; else "facebook/VGGT-1B" is recorded.
        vggt: sizes of the frozen VGGT; None: VGGT-1B.

    Raises:
        TeacherError: nothing is there, or it cannot be fetched.
        WeightsError: not such a checkpoint, with every misfit named; or damaged; or with tensors
            that are no weights, or pickled objects, which are never run.
        ConfigError: a folder that cannot be written, or holds the source or files of others.
    """
    check_places(source, out, teacher_out)
    where = storage.redacted(str(source))
    state, steps = _read(source, where)
    parts = split(state, where)
    made = plan(parts, where, vggt=vggt or VggtConfig())
    check_values(parts, where)
    is_vlm = parts.kind == "vlm"
    folder = storage.join(out, ENCODER) if is_vlm else str(out)
    semantic = _semantic(parts, made, where)
    geometric = _geometric(parts, made, where, teacher_out, folder)
    load_strict(made.student, parts.student, where=where)
    parts.student.clear()
    references = {"geometric": geometric, "semantic": semantic}
    provenance = {
        "recipe": "release",
        "steps": steps,
        "data_hash": "",
        "target_hash": "",
        "datasets": list(RELEASE_DATASETS),
        "converted_from": _name(source),
    }
    encoder = Spa3REncoder(made.student, _card(made, references, provenance))
    encoder.save_pretrained(folder)
    adapter = storage.join(out, ADAPTER) if is_vlm else None
    if adapter is not None:
        _write_adapter(adapter, parts, made.adapter, encoder.hash, _name(source))
    return Converted(
        kind=parts.kind,
        encoder=folder,
        encoder_hash=encoder.hash,
        adapter=adapter,
        teacher=geometric,
        teacher_folder=None if teacher_out is None else str(teacher_out),
        num_base=parts.num_base,
    )


def _read(source: str | Path, where: str) -> tuple[dict[str, Tensor], int | str]:
    """Tensors by the file's own names, and the optimiser steps that Lightning counted."""
    table = load_nested(source)
    steps = table.get("global_step")
    state = table.get("state_dict", table)
    if not isinstance(state, dict) or not all(isinstance(x, Tensor) for x in state.values()):
        raise WeightsError(
            f"{where}: neither a Lightning checkpoint nor a table of tensors; give the authors'"
            " .ckpt, or save the model's state_dict() alone"
        )
    named = {_COMPILED.sub("", name): x for name, x in state.items()}
    if len(named) < len(state):
        twice = sorted(x for x in state if _COMPILED.search(x) and _COMPILED.sub("", x) in state)
        raise WeightsError(
            f"{where}: {len(state) - len(named)} tensors stand there with and without _orig_mod."
            f" ({', '.join(twice[:3])}); keep one of each"
        )
    if changed := len(named.keys() - state.keys()):
        log.info("%s: _orig_mod. of torch.compile taken out of %d names", where, changed)
    return named, steps if isinstance(steps, int) else "unknown"


def _card(
    made: Plan, references: dict[str, dict[str, str]], provenance: dict[str, Any]
) -> EncoderCard:
    """config.json of the encoder: the released configuration, with the sizes that were found."""
    aggregator = made.vggt.config.aggregator
    return EncoderCard(
        model=made.student.config,
        teacher=TeacherSpec(
            geometric_uri=references["geometric"]["uri"],
            qk_norm=aggregator.global_qk_norm,
            passes="two_pass",
            width=2 * aggregator.embed_dim,
            semantic_width=made.student.config.sem_width,
        ),
        references=references,
        image_width=IMAGE_WIDTH,
        image_multiple=IMAGE_MULTIPLE,
        provenance=provenance,
    )


def _geometric(
    parts: Parts, made: Plan, where: str, teacher_out: str | Path | None, encoder: str
) -> dict[str, str]:
    """Reference to the frozen VGGT inside, which is written if a folder is given.

    Its licence is that of the published weights, whatever place they were written to.
    """
    rounded = {x.dtype for x in parts.vggt.values()} - {torch.float32}
    if rounded and teacher_out is None:
        names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in rounded))
        log.warning(
            "%s holds its VGGT in %s: its hash is not that of %s in float32; give --teacher FOLDER"
            " to write the one that fits", where, names, TeacherSpec().geometric_uri,
        )  # fmt: skip
    load_strict(made.vggt, parts.vggt, where=where)
    parts.vggt.clear()
    uri = TeacherSpec().geometric_uri
    if teacher_out is not None:
        with storage.named_write_errors(teacher_out):
            save_vggt(teacher_out, made.vggt)
        uri = recorded_place(encoder, teacher_out, otherwise=uri)
    reference = VggtTeacher(made.vggt, uri=uri, passes="two_pass").reference()
    made.vggt.to("meta")  # frees 4.8 GB where the checkpoint's half precision was widened
    published = {"kind": "vggt", "uri": TeacherSpec().geometric_uri}
    return reference | {"licence": licence_of_teacher(published).name}


def _semantic(parts: Parts, made: Plan, where: str) -> dict[str, str]:
    """Reference to the frozen DINOv3 inside."""
    load_dinov3(made.dino, parts.dino, where=where)
    parts.dino.clear()
    reference = DinoV3Teacher(made.dino, uri=TeacherSpec().semantic_uri).reference()
    # Frees 1.2 GB where half precision was widened; Transformers annotates its override wrongly.
    torch.nn.Module.to(made.dino, "meta")
    return reference


def _write_adapter(
    folder: str, parts: Parts, sizes: AdapterSizes, encoder_hash: str, base_model: str
) -> None:
    """The fusion adapter under its published names and in its stored dtype."""
    config: dict[str, Any] = {
        "format": ADAPTER_FORMAT,
        **asdict(sizes),
        "num_heads": sizes.hidden_width // sizes.head_width,
        "encoder_hash": encoder_hash,
        "base_model": base_model,
    }
    state = {name: x.contiguous() for name, x in parts.adapter.items()}
    storage.write_bytes(storage.join(folder, "model.safetensors"), safetensors.torch.save(state))
    storage.write_json(storage.join(folder, "config.json"), config)


def _name(source: str | Path) -> str:
    """A file's or folder's own name, or a Hugging Face id: no path of this machine."""
    text = storage.redacted(str(source)).rstrip("/")
    return Path(text).name if storage.exists(source) else text
