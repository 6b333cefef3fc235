"""Where things are on this machine, read from the environment.

| variable | meaning | default |
|---|---|---|
| SPA3R_HOME | everything this platform writes (a shared folder on a cluster) | ./spa3r-home |
| SPA3R_SHARDS | frame shards, a folder or any fsspec URL | SPA3R_HOME/shards |
| SPA3R_TARGETS | target shards, a folder or any fsspec URL | SPA3R_HOME/targets |
| SPA3R_WORKERS | processes for ingest and targets, CPUs of a Ray started here | cores, at most 8 |
| SPA3R_INSTRUCTIONS | instruction sets, a folder or any fsspec URL | SPA3R_HOME/instructions |
| SPA3R_FEATURES | scene latents kept for tuning, a folder or any fsspec URL | SPA3R_HOME/features |
| SPA3R_CHECKPOINTS | checkpoints of runs, a folder or any fsspec URL | in the run's folder |
| SPA3R_TRAIN_WORKERS | Ray workers for training, "4" or "2-8"; 0: none, no Ray | SPA3R_WORKERS |
| SPA3R_GPU | 1 gives every Ray worker a GPU | 1 where CUDA is visible |
| MLFLOW_TRACKING_URI | tracking server and registry | sqlite in SPA3R_HOME |
| PREFECT_HOME | Prefect's own files | SPA3R_HOME/prefect |

All else that we read, where it is used: PREFECT_API_URL (flows/demo_run.py, flows/doctor.py),
RAY_ADDRESS (spa3r/train/cluster.py, preprocessing/ray_runner.py, flows/doctor.py), HF_HOME
(flows/doctor.py), SPA3R_TEACHER (spa3r/hub.py), and SPA3R_HOME for the library's default registry
(spa3r/train/servers.py). The libraries read their own besides.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from spa3r import storage
from spa3r.config import IngestSpec, Recipe
from spa3r.errors import ConfigError
from spa3r.plain import config_hash
from spa3r.train.identity import binding
from spa3r.tune_config import TuneRecipe

# Nothing downloaded also means nothing sent; set before the libraries are imported.
QUIET = {
    "DO_NOT_TRACK": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """One reading of the environment."""

    home: Path
    shards_root: str
    targets_root: str
    workers: int
    train_workers: int
    """The most workers; 0: no Ray."""
    least_workers: int = 0
    """With so few of them training goes on when nodes are lost."""
    checkpoints_root: str = ""
    """Empty: in the run's own folder."""
    instructions_root: str = ""
    """Empty: in the home folder."""
    features_root: str = ""
    """Empty: in the home folder."""
    gpu: bool
    mlflow_uri: str

    @classmethod
    def from_environment(cls) -> Self:
        """Raises ConfigError on a value that is not what the table above says."""
        home = Path(os.environ.get("SPA3R_HOME", "spa3r-home")).expanduser().resolve()
        workers = _count("SPA3R_WORKERS", default=min(os.cpu_count() or 1, 8), least=1)
        least, most = _span("SPA3R_TRAIN_WORKERS", default=workers)
        return cls(
            home=home,
            shards_root=os.environ.get("SPA3R_SHARDS") or str(home / "shards"),
            targets_root=os.environ.get("SPA3R_TARGETS") or str(home / "targets"),
            workers=workers,
            train_workers=most,
            least_workers=least,
            checkpoints_root=os.environ.get("SPA3R_CHECKPOINTS", ""),
            instructions_root=os.environ.get("SPA3R_INSTRUCTIONS", ""),
            features_root=os.environ.get("SPA3R_FEATURES", ""),
            gpu=bool(_count("SPA3R_GPU", default=int(_cuda_is_visible()), least=0)),
            mlflow_uri=os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home}/mlflow.db",
        )

    def prepare_environment(self) -> None:
        """Switches telemetry off and gives Prefect its home, before Prefect is imported."""
        self.home.mkdir(parents=True, exist_ok=True)
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        os.environ.setdefault("PREFECT_HOME", str(self.home / "prefect"))
        # Prefect's own 20 seconds are short where the machine is busy.
        os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
        # For everything that loads "models:/..."; MLflow's own default is a file where one stands.
        os.environ.setdefault("MLFLOW_TRACKING_URI", self.mlflow_uri)

    @property
    def prefect_database(self) -> Path:
        """The embedded Prefect database (unused where PREFECT_API_URL names a server)."""
        return Path(os.environ.get("PREFECT_HOME", self.home / "prefect")) / "prefect.db"

    @property
    def rooms(self) -> Path:
        """Generated scans, in ScanNet's layout."""
        return self.home / "rooms"

    @property
    def device(self) -> str:
        """Where a stage that runs in this process computes, as torch names it."""
        return "cuda" if self.gpu else "cpu"

    # Names carry a hash of the settings they were made with: recipes never mix, and a second run
    # with the same settings finds what the first one left.

    def shards(self, dataset: str, spec: IngestSpec) -> str:
        """Frame shards and manifest of one dataset."""
        return storage.join(self.shards_root, f"{_name(dataset)}-{spec.shard_hash()[:8]}")

    def targets(self, dataset: str, recipe: Recipe, split: str) -> str:
        """Target shards of one dataset and split."""
        train = split == "train"
        clips = recipe.clips if train else recipe.eval_clips
        what: str | list[str | int] = recipe.data.stored if train else "clips"
        if what != "clips":  # then a draw gives the statistics
            what = [recipe.data.stored, recipe.data.statistics_clips]
        made_with = config_hash(recipe.ingest, clips, recipe.teacher, what)[:8]
        return storage.join(self.targets_root, f"{_name(dataset)}-{split}-{made_with}")

    def packed(self, dataset: str, recipe: Recipe) -> str:
        """Sequential shards of the training targets, of a recipe whose source is `packed`."""
        return f"{self.targets(dataset, recipe, 'train')}-packed"

    def checkpoints(self, dataset: str, recipe: Recipe) -> str:
        """Checkpoints of a run."""
        run = self.run(dataset, recipe)
        root = self.checkpoints_root
        return storage.join(root, run.name) if root else str(run / "checkpoints")

    def run(self, dataset: str, recipe: Recipe) -> Path:
        """Checkpoints, metrics and the exported encoder of one recipe on one dataset; the same for
        settings that may change when a run goes on."""
        made_with = config_hash(binding(recipe))[:8]
        return self.home / "runs" / f"{recipe.name}-{_name(dataset)}-{made_with}"

    def target_pair(self, dataset: str, recipe: Recipe) -> str:
        """Name of the targets of both splits."""
        train, val = (Path(self.targets(dataset, recipe, s)).name for s in ("train", "val"))
        return f"{train}-{val.rpartition('-')[2]}"

    @property
    def instructions(self) -> str:
        """Instruction sets, one folder each: imported ones by name, generated ones by dataset and
        hash."""
        return self.instructions_root or str(self.home / "instructions")

    def instruction_set(self, name: str) -> str:
        """Folder of one instruction set."""
        return storage.join(self.instructions, _name(name, "instruction set"))

    @property
    def questions(self) -> Path:
        """Generated questions about held-out scenes, one folder a dataset and hash."""
        return self.home / "questions"

    @property
    def features(self) -> str:
        """Latents (and tokens of the vision tower) of videos, by content hash."""
        return self.features_root or str(self.home / "features")

    def tuning_run(self, recipe: TuneRecipe, made_from: Mapping[str, str]) -> Path:
        """Checkpoints, metrics and the exported Spa3-VLM of one recipe; the same for settings that
        may change when a run goes on.

        Args:
            made_from: hashes of the encoder and of the instruction sets.
        """
        made_with = config_hash(binding(recipe), dict(made_from))[:8]
        return self.home / "runs" / f"{recipe.name}-{made_with}"

    def tuning_checkpoints(self, run: Path) -> str:
        """Checkpoints of a tuning run."""
        root = self.checkpoints_root
        return storage.join(root, run.name) if root else ""

    @property
    def suites(self) -> Path:
        """Predictions and scores of benchmark suites, one folder a model and question file."""
        return self.home / "suites"

    @property
    def reports(self) -> Path:
        return self.home / "reports"


def _name(name: str, what: str = "dataset") -> str:
    """A name that becomes part of folder names. Raises ConfigError."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ConfigError(f"{what} {name!r}: use letters, digits, dots, dashes, underscores")
    return name


def _count(name: str, *, default: int, least: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal() or int(text) < least:
        raise ConfigError(f"{name}={text!r} is not a whole number of at least {least}")
    return int(text)


def _span(name: str, *, default: int) -> tuple[int, int]:
    """Smallest and largest of "4" or "2-4"."""
    text = os.environ.get(name, str(default))
    low, dash, high = text.partition("-")
    numbers = (low, high) if dash else (low, low)
    if not all(n.isdecimal() for n in numbers) or (dash and not 1 <= int(low) <= int(high)):
        raise ConfigError(f"{name}={text!r} is neither a whole number nor a span like 2-8")
    return int(numbers[0]), int(numbers[1])


def _cuda_is_visible() -> bool:
    # Asking torch would import it in every command; the driver's device node answers at once.
    return Path("/dev/nvidia0").exists()
