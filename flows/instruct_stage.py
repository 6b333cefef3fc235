"""The stage from published instruction data to an instruction set. No Prefect here."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from flows.settings import Settings
from flows.stage import StageResult, say
from spa3r import storage
from spa3r.errors import ConfigError

log = logging.getLogger(__name__)

_LOG_ROWS: Final = 50_000


def instruct(
    source: str, annotations: str, *, media: str, name: str = "", benchmark_scenes: bool = False
) -> StageResult:
    """Imports annotations as the set `name` (default: the source's), in place of one of that name.

    A row that cannot be used is left out; reasons are counted in the set's manifest, and the first
    row of each reason is logged.

    Args:
        source: one of those in `spa3r instruct --help`: what format the annotations have.
        media: folder or URL under which the paths in the annotations lie.
        benchmark_scenes: keep conversations about scenes that benchmarks ask about.

    Raises:
        ConfigError: an unknown source, or nothing at the place of the annotations or media.
        FormatError: annotations of another format, or no row that can be used.
        ShardError: another process is importing under that name.
    """
    from preprocessing.instructions.common import usable
    from preprocessing.lock import output_lock
    from spa3r.data.instruction_sets import told, write_set

    read, types = _reader(source)
    file = _file(source, annotations)
    for place in (file, media):
        if not storage.exists(place):
            raise ConfigError(
                f"{place}: nothing there; name the annotations, and --media their root"
            )
    folder = Settings.from_environment().instruction_set(name or source)
    dropped = Counter[str]()
    items = usable(read(annotations), media_root=media, benchmark_scenes=benchmark_scenes)
    with output_lock(folder):
        made = write_set(
            folder, _counted(items, dropped), source=source, media_root=media, dropped=dropped,
            made_from={"annotations": annotations, "sha256": storage.sha256(file)},
        )  # fmt: skip
    manifest = made.manifest
    unknown = {
        x: n for x, n in manifest["question_types"].items() if x and types and x not in types
    }
    if unknown:
        log.warning("%s: question types not known of %s, kept: %s", folder, source, told(unknown))
    done = f"{manifest['rows']} conversations in {folder}; left out: {told(manifest['dropped'])}"
    facts = {"folder": folder, "rows": manifest["rows"], "dropped": manifest["dropped"],
             "unknown question types": unknown, "hash": made.hash,
             "licences": {x: terms["name"] for x, terms in manifest["licences"].items()},
    }  # fmt: skip
    return StageResult(stage="instruct", line=say(done, reused=False), facts=facts)


def check(name: str) -> StageResult:
    """Reads a whole set again: its form, its media, and whether it asks about benchmark scenes.

    Args:
        name: of a set under Settings.instructions, or a folder, or a file of JSON lines.

    Raises:
        FormatError: no such set, or a damaged one.
    """
    from preprocessing.instructions.common import absent_media
    from spa3r.data.instruction_sets import JSON_LINES, read_set, told
    from spa3r.guard import held_out_media

    is_place = "/" in name or name.endswith(JSON_LINES)
    given = read_set(name if is_place else Settings.from_environment().instruction_set(name))
    found = Counter[str]()
    is_absent = absent_media(given.media_root)
    for one in given.instructions:
        found["with absent media"] += one.media_kind != "scan" and is_absent(one.media) is not None
        found["about benchmark scenes"] += bool(held_out_media(one.dataset, one.scene, one.media))
        found[f"about {one.media_kind}"] += 1
    counts = {what: count for what, count in found.items() if count}
    line = f"{given.where}: {len(given.instructions)} conversations: {told(counts)}"
    if given.manifest:
        terms = {x: terms["name"] for x, terms in given.manifest["licences"].items()}
        left_out = told(given.manifest["dropped"])
        line += f"; left out when it was made: {left_out}; licences: {terms}"
    facts = {"rows": len(given.instructions), "found": counts, "hash": given.hash}
    return StageResult(stage="instruct", line=storage.redacted(line), facts=facts)


def _reader(source: str) -> tuple[Callable[[str], Iterator[Any]], frozenset[str]]:
    """What reads a source, and its question types; empty: any."""
    from preprocessing.instructions import llava_hound, spar, vgllm, vlm3r, vsi590k

    known: dict[str, tuple[Callable[[str], Iterator[Any]], frozenset[str]]] = {
        "vsi-590k": (vsi590k.read, vsi590k.TYPES),
        "spar": (spar.read, frozenset()),
        "llava-hound": (llava_hound.read, frozenset()),
        "vlm-3r": (vlm3r.read, vlm3r.TYPES),
        "vg-llm": (vgllm.read, frozenset()),
    }
    if source not in known:
        raise ConfigError(f"source {source!r} is not one of {', '.join(known)}")
    return known[source]


def _file(source: str, annotations: str) -> str:
    """Of vg-llm a share of the rows may stand behind the name."""
    from preprocessing.instructions import vgllm

    return vgllm.split_share(annotations)[0] if source == vgllm.SOURCE else annotations


def _counted(items: Iterable[Any], dropped: Counter[str]) -> Iterator[Any]:
    """The conversations; drops go into the counter."""
    from preprocessing.instructions.common import Drop

    for number, item in enumerate(items, start=1):
        if number % _LOG_ROWS == 0:
            log.info("%d rows read, %d left out", number, dropped.total())
        if not isinstance(item, Drop):
            yield item
            continue
        if not dropped[item.reason] and item.detail:
            log.warning("row %d left out, %s: %s", item.row, item.reason, item.detail)
        dropped[item.reason] += 1
