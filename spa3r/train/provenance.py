"""What an encoder is and where it comes from: its hash, its history, the code that made it."""

import hashlib
import re
import subprocess
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Final

from spa3r import storage
from spa3r.errors import WeightsError
from spa3r.licences import licences_of, parts
from spa3r.plain import config_hash

_ROOT: Final = Path(__file__).resolve().parents[2]
_PACKAGES: Final = ("flows", "preprocessing", "spa3r")
_PINNED: Final = re.compile(r"^([\w.-]+)==([^\s;]+)", re.MULTILINE | re.ASCII)


def encoder_hash(folder: str | Path) -> str:
    """16 hex digits over the files of an encoder folder: the identity of a version."""
    files = [storage.join(folder, name) for name in ("config.json", "model.safetensors")]
    missing = [url for url in files if not storage.exists(url)]
    if missing:
        raise WeightsError(f"{missing[0]} is missing: {folder} is not an encoder")
    text = "".join(storage.sha256(url) for url in files)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def provenance_tags(folder: str | Path) -> dict[str, str]:
    """Recipe, data, teachers and terms of an encoder folder, as its card says.

    `licences` holds the names of all terms; licence_<role> and licence_data_<name> those of each
    part it was learnt from.
    """
    card = storage.read_json(storage.join(folder, "config.json"))
    provenance = card["provenance"]
    tags = {key: str(provenance[key]) for key in ("recipe", "data_hash", "target_hash", "steps")}
    if "settings" in provenance:
        tags["recipe_hash"] = config_hash(provenance["settings"])
    for role, reference in card["references"].items():
        prefix = "teacher" if role == "geometric" else f"{role}_teacher"
        tags |= {f"{prefix}_{key}": str(value) for key, value in reference.items()}
    datasets = provenance.get("datasets")
    tags["datasets"] = ",".join(datasets or [])
    found = licences_of(card["references"], datasets)
    tags["licences"] = ",".join(licence.name for licence in found)
    for part in parts(card["references"], datasets):
        key = f"data_{part.name}" if part.role == "data" else part.role
        # What MLflow allows in a tag's name.
        tags[re.sub(r"[^\w.-]", "_", f"licence_{key}", flags=re.ASCII)] = part.licence.name
    return tags


# --- code and environment -------------------------------------------------------------------------


def code_version() -> str:
    """`git describe` of the checkout this package runs from, "unknown" outside of one."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=_ROOT, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()


@cache
def code_facts() -> dict[str, str]:
    """The version of the code, whether the checkout has changes of its own, and its content.

    As it was when the process first asked: a run of days must not record later edits.
    `code_hash` is 16 hex digits over our packages' files: the same in a checkout, in an image
    without git and in an installed package, and another one for every uncommitted change.
    """
    version = code_version()
    dirty = "unknown" if version == "unknown" else str(version.endswith("-dirty")).lower()
    return {"code_version": version, "code_dirty": dirty, "code_hash": _code_hash()}


def _code_hash() -> str:
    digest = hashlib.sha256()
    for package in _PACKAGES:
        for path in sorted((_ROOT / package).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(f"{path.relative_to(_ROOT).as_posix()}\0".encode())
                digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


@dataclass(frozen=True, kw_only=True, slots=True)
class Environment:
    """The packages that a process runs with."""

    lock: str | None
    """Text of requirements.lock; None where none lies beside the packages."""
    installed: str
    """What is really installed, a line name==version each, sorted."""

    @property
    def hash(self) -> str:
        """16 hex digits of the lock, or of the installed packages where there is none."""
        text = self.installed if self.lock is None else self.lock
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def differs(self) -> list[str]:
        """Packages of the lock that are installed in another version, or not at all."""
        found = dict(line.split("==") for line in self.installed.splitlines())
        wanted = _PINNED.findall(self.lock or "")
        # A local label (+cpu) says how a version was built, not which one it is.
        here = {name: found.get(_plain(name), "none").partition("+")[0] for name, _ in wanted}
        return [
            f"{name} {here[name]} for {version}"
            for name, version in wanted
            if here[name] != version
        ]

    def facts(self) -> dict[str, str]:
        """For tags and lineage.json."""
        return {
            "environment": "installed packages" if self.lock is None else "requirements.lock",
            "environment_hash": self.hash,
            "environment_differs": ", ".join(self.differs),
        }


@cache
def environment() -> Environment:
    """Of this process. The lock is the one beside the packages: a checkout's or an image's."""
    lock = _ROOT / "requirements.lock"
    facts = [one.metadata for one in metadata.distributions()]  # parsed anew at each access
    found = {f"{_plain(one['Name'])}=={one['Version']}" for one in facts if one["Name"]}
    return Environment(
        lock=lock.read_text() if lock.is_file() else None,
        installed="".join(f"{line}\n" for line in sorted(found)),
    )


def _plain(name: str) -> str:
    """A package's name as it is compared: PyQt_x.y and pyqt-x-y are one."""
    return re.sub(r"[-_.]+", "-", name).lower()
