"""The chain from a model back to the scans, and whether its pieces are still what they were.

Each piece is looked for where it was recorded (spa3r/train/origin.py) and compared by hash
(spa3r/train/links.py). One that was not recorded is said to be so; nothing is inferred.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from mlflow import MlflowClient

from spa3r import storage
from spa3r.errors import ServiceError, WeightsError
from spa3r.train import registry
from spa3r.train.links import Link, LookAtScans, State, encoder_state, links_of
from spa3r.train.origin import LINEAGE, card_lineage, read_lineage
from spa3r.train.provenance import encoder_hash
from spa3r.train.registry import VLM_HASH, Registered
from spa3r.train.vlm_links import SUITE_SCORES, dependency, vlm_links_of, vlm_state
from spa3r.train.vlm_origin import card_record, read_vlm_lineage
from spa3r.train.vlm_registry import VLM_NAME
from spa3r.vlm.card import CONFIG_FILE
from spa3r.vlm.card import FORMAT as VLM_FORMAT

_SAID: Final = {
    "same": "there, unchanged",
    "changed": "CHANGED",
    "gone": "GONE",
    "not recorded": "not recorded",
    "unknown": "not known",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Lineage:
    """A chain, its newest piece first."""

    model: str
    links: tuple[Link, ...]

    @property
    def broken(self) -> dict[str, list[str]]:
        """State -> parts, of all that cannot be shown to be as it was recorded."""
        found: dict[str, list[str]] = {}
        for link in self.links:
            if link.state not in ("same", ""):
                found.setdefault(link.state, []).append(link.part)
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain data, for `spa3r lineage --json`."""
        links = [asdict(link) for link in self.links]
        return {"model": self.model, "links": links, "broken": self.broken}

    def __str__(self) -> str:
        lines = [line for link in self.links for line in _lines(link)]
        checked = sum(link.state != "" for link in self.links)
        said = "; ".join(f"{state}: {', '.join(parts)}" for state, parts in self.broken.items())
        lines.append(said or f"all {checked} pieces are there and have their recorded hashes")
        return storage.redacted("\n".join(lines))


def _lines(link: Link) -> Iterator[str]:
    yield f"{link.part:<10} {link.what}"
    state = _SAID.get(link.state, "")
    digest = f"hash {link.hash[:16]}{': ' if state else ''}" if link.hash else ""
    for line in (link.where, f"{digest}{state}", link.note):
        if line:
            yield f"{'':<10} {line}"


def trace(
    client: MlflowClient | None, model: str, *, look_at_scans: LookAtScans | None = None
) -> Lineage:
    """The chain of a registered version or of a folder: of an encoder, or of a Spa3-VLM, whose
    chain goes on with that of the encoder it depends on.

    Args:
        client: of the registry; None: there is none, then `model` is a folder.
        model: "models:/<name>@<alias>", "models:/<name>/<version>", or a folder or URL.
        look_at_scans: None: scans are compared by what ingest noted of them only.

    Raises:
        WeightsError: no such version, or neither of the two. ConfigError: not a name of a version.
    """
    version = None
    if model.startswith("models:/") and client is not None:
        version = registry.named(client, model)
    if _is_vlm(version, model):
        return Lineage(model=model, links=tuple(_vlm_links(client, version, model, look_at_scans)))
    if version is None and client is not None:
        version = registry.find_by_hash(client, encoder_hash(model))
    record = _record(client, version, model)
    links: list[Link] = []
    if client is not None and version is not None:
        links += _of_version(client, version)
    else:
        links.append(Link(part="encoder", what="not registered", where=record["encoder"]["folder"],
                          hash=record["encoder"]["hash"], state="same"))  # fmt: skip
    return Lineage(model=model, links=(*links, *links_of(record, look_at_scans)))


def _is_vlm(version: Registered | None, model: str) -> bool:
    if version is not None:
        return VLM_HASH in version.tags
    card = storage.join(model, CONFIG_FILE)
    return storage.exists(card) and storage.read_json(card).get("format") == VLM_FORMAT


def _vlm_links(
    client: MlflowClient | None,
    version: Registered | None,
    model: str,
    look_at_scans: LookAtScans | None,
) -> Iterator[Link]:
    """Of a Spa3-VLM: its own pieces, then those of its encoder."""
    folder = str(registry.resolve(model)) if model.startswith("models:/") else model
    said = card_record(folder)
    digest = said["vlm"]["hash"]
    if version is None and client is not None:
        version = registry.find_by_hash(client, digest, name=VLM_NAME, tag=VLM_HASH)
    record = None
    if client is not None and version is not None:
        yield from _of_version(
            client, version, tag=VLM_HASH, state_of=vlm_state, scores_tag=SUITE_SCORES
        )
        path = registry.run_artifact(client, version.run_id, f"lineage/{digest}/{LINEAGE}")
        record = read_vlm_lineage(path.parent, digest) if path else None
    else:
        yield Link(part="vlm", what="not registered", where=folder, hash=digest, state="same")
        record = read_vlm_lineage(storage.join(folder, ".."), digest)
    record = record or said
    yield from vlm_links_of(record)
    yield from _encoder_links(client, record["encoder"], folder, look_at_scans)


def _encoder_links(
    client: MlflowClient | None,
    encoder: Mapping[str, str],
    folder: str,
    look_at_scans: LookAtScans | None,
) -> Iterator[Link]:
    """The encoder that a model depends on, and its own chain."""
    if not encoder:
        return
    uri = encoder["uri"]
    place = storage.join(folder, uri) if uri.startswith(("./", "../")) else uri
    try:
        chain = trace(client, place, look_at_scans=look_at_scans)
    except (WeightsError, ServiceError) as error:
        yield replace(dependency(encoder, ""), state="gone", note=str(error))
        return
    yield dependency(encoder, chain.links[0].hash)
    yield from chain.links


def _record(
    client: MlflowClient | None, version: Registered | None, model: str
) -> Mapping[str, Any]:
    """lineage.json of the version, or beside the encoder; else what the encoder's card says."""
    if client is not None and version is not None:
        digest = version.tags.get("encoder_hash", "")
        path = registry.run_artifact(client, version.run_id, f"lineage/{digest}/{LINEAGE}")
        kept = read_lineage(path.parent, digest) if path else None
        if kept is not None:
            return kept
    folder = str(registry.resolve(model)) if model.startswith("models:/") else model
    beside = storage.join(folder, "..") if storage.is_local(folder) else folder.rpartition("/")[0]
    return read_lineage(beside, encoder_hash(folder)) or card_lineage(folder)


def _of_version(
    client: MlflowClient,
    version: Registered,
    *,
    tag: str = registry.ENCODER_HASH,
    state_of: Callable[[str, str], tuple[State, str]] = encoder_state,
    scores_tag: str = "field_scores",
) -> Iterator[Link]:
    """The version, what was decided of it, and the run that logged it."""
    uri, digest = f"models:/{version.name}/{version.version}", version.tags.get(tag, "")
    try:
        state, note = state_of(str(registry.resolve(uri)), digest)
    except WeightsError as error:
        state, note = "gone", str(error)
    aliases = f" ({', '.join(version.aliases)})" if version.aliases else ""
    yield Link(
        part="version", what=f"{version}{aliases}", where=uri, hash=digest, state=state, note=note
    )
    tags = version.tags
    for scores in tags.get(scores_tag, "not evaluated").split("; "):
        yield Link(part="scores", what=scores)
    if "verdict" in tags:
        before = tags["verdict_against"]
        against = "no champion" if before == "none" else f"champion version {before}"
        yield Link(
            part="verdict",
            what=f"{tags['verdict']} at {tags['verdict_time']}, against {against}",
            note=tags["verdict_reason"],
        )
    facts = registry.run_facts(client, version.run_id)
    yield Link(
        part="tracked",
        what=f"MLflow run {version.run_id}"
        + (f", {facts['name']}, {facts['status']}, begun {facts['start']}" if facts else ""),
        state="same" if facts else "gone",
    )
