"""Under which terms the teachers' weights and the training data stand: one table for model cards
and registry tags.

A student learnt from them, so their terms go with its weights. The table is a pointer, not legal
advice: the page at `url` is what counts.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, kw_only=True, slots=True)
class Licence:
    """Terms of one teacher or data set."""

    name: str
    """Short, lower case, as Hugging Face writes its `license_name`."""
    url: str
    note: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One teacher or data set that a student learnt from."""

    role: str
    """Of a teacher: "geometric", "semantic", "linguistic"; of a data set: "data"."""
    name: str
    """Kind of teacher, or name of the data set."""
    licence: Licence


APACHE: Final = Licence(
    name="apache-2.0",
    url="https://www.apache.org/licenses/LICENSE-2.0",
    note="made by this project's own code; no weights and no recorded data",
)
UNKNOWN_DATA: Final = "unknown data"
OPEN: Final = ("apache-2.0", "mit")
"""Names that Hugging Face knows as a `license` of its own."""
_VGGT_PAGE: Final = "https://huggingface.co/facebook/VGGT-1B"
_WEIGHTS: Final = {
    "facebook/VGGT-1B": Licence(
        name="vggt-1b-non-commercial",
        url=_VGGT_PAGE,
        note="original VGGT-1B weights: non-commercial use only",
    ),
    "facebook/VGGT-1B-Commercial": Licence(
        name="vggt-1b-commercial",
        url=f"{_VGGT_PAGE}-Commercial",
        note="commercial VGGT-1B weights: their own licence and acceptable-use policy",
    ),
}
"""By Hugging Face id; these go before the teacher's kind."""
_KINDS: Final = {
    "vggt": Licence(
        name="vggt",
        url=_VGGT_PAGE,
        note="VGGT weights of another place: the original VGGT-1B is for non-commercial use only,"
        " VGGT-1B-Commercial has its own licence",
    ),
    "dinov3": Licence(
        name="dinov3-license",
        url="https://ai.meta.com/resources/models-and-libraries/dinov3-license/",
        note="weights behind a form: accept the DINOv3 licence; it goes with whatever is built on"
        " them",
    ),
    "dinov2": Licence(
        name="apache-2.0",
        url="https://github.com/facebookresearch/dinov2/blob/main/LICENSE",
        note="DINOv2 code and weights",
    ),
    "clip": Licence(
        name="mit",
        url="https://github.com/openai/CLIP/blob/main/LICENSE",
        note="OpenAI's CLIP; CLIP weights of others have terms of their own",
    ),
    "rgbd": APACHE,
    "labels": APACHE,
}
_DATASETS: Final = {
    "scannetpp": Licence(
        name="scannetpp-terms-of-use",
        url="https://kaldir.vc.in.tum.de/scannetpp/static/scannetpp-terms-of-use.pdf",
        note="non-commercial research and education, after registration",
    ),
    "scannet": Licence(
        name="scannet-terms-of-use",
        url="https://kaldir.vc.in.tum.de/scannet/ScanNet_TOS.pdf",
        note="non-commercial research and education, after signing",
    ),
}
"""By the beginning of the name that a manifest gives its data set ("scannet-val" is ScanNet)."""
_INSTRUCTIONS: Final = {
    "rooms": APACHE,
    "llava-hound": Licence(
        name="llava-video-terms",
        url="https://huggingface.co/datasets/lmms-lab/LLaVA-Video-178K",
        note="its card says Apache 2.0, for academic research and education only, and that OpenAI's"
        " usage policies hold for what GPT-4 wrote",
    ),
} | {
    name: Licence(
        name="unknown",
        url=f"https://huggingface.co/datasets/{page}",
        note="the page of the annotations says their terms; those of the pictures are their own",
    )
    for name, page in (
        ("vsi-590k", "nyu-visionx/VSI-590K"),
        ("spar", "jasonzhango/SPAR-7M"),
        ("vlm-3r", "Journey9ni/VLM-3R-DATA"),
        ("vg-llm", "zd11024/VG-LLM-Data"),
    )
}
"""Of questions and answers, by the source of an instruction set."""
_ROOMS: Final = "rooms"


def licence_of_weights(uri: str) -> Licence | None:
    """Terms of published weights by their Hugging Face id; None of any other place."""
    return _WEIGHTS.get(uri)


def licence_of_teacher(reference: Mapping[str, Any]) -> Licence:
    """Terms of the teacher that a `reference()` describes: those that it records, if this table has
    them, then by its weights' id, then by its kind."""
    by_kind = _KINDS.get(str(reference.get("kind")))
    by_id = licence_of_weights(str(reference.get("uri")))
    recorded = reference.get("licence")
    # Names are not unique (Apache-2.0 of two owners): the teacher's own page goes first.
    for known in (by_id, by_kind, *_WEIGHTS.values(), *_KINDS.values()):
        if known is not None and known.name == recorded:
            return known
    if found := by_id or by_kind:
        return found
    return Licence(name="unknown", url="", note=f"no terms known of {reference.get('kind')!r}")


def licence_of_dataset(name: str) -> Licence:
    """Terms of a data set; of one that is not listed its owner is to be asked."""
    if name == _ROOMS:
        return APACHE
    plain = name.lower().replace("+", "p")
    for beginning, licence in _DATASETS.items():
        if plain.startswith(beginning):
            return licence
    return Licence(name="unknown", url="", note="ask the owner of the recordings")


def licence_of_instructions(source: str) -> Licence:
    """Terms of an instruction set's questions and answers; its pictures' are their data sets'."""
    unknown = Licence(name="unknown", url="", note="ask who wrote the questions and answers")
    return _INSTRUCTIONS.get(source, unknown)


def parts(
    references: Mapping[str, Mapping[str, Any]], datasets: Iterable[str] | None
) -> list[Part]:
    """Everything a student learnt from: teachers by role, then data sets by name.

    Args:
        references: teachers by role, as an encoder's card has them.
        datasets: names; None: not recorded, which is a part of its own.
    """
    teachers = [
        Part(role=role, name=str(references[role]["kind"]),
             licence=licence_of_teacher(references[role]))
        for role in sorted(references)
    ]  # fmt: skip
    names = [UNKNOWN_DATA] if datasets is None else sorted(datasets)
    return teachers + [Part(role="data", name=x, licence=licence_of_dataset(x)) for x in names]


def licences_of(
    references: Mapping[str, Mapping[str, Any]], datasets: Iterable[str] | None
) -> list[Licence]:
    """The different terms of all parts, each once, those that restrict use before the open ones."""
    found = {part.licence.name: part.licence for part in reversed(parts(references, datasets))}
    return sorted(found.values(), key=lambda licence: (licence.name in OPEN, licence.name))
