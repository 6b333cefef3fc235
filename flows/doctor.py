"""`spa3r doctor`: what this machine has and lacks, one line each."""

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from flows.demo_run import require_prefect_server
from flows.settings import Settings
from spa3r.errors import ConfigError, ServiceError
from spa3r.storage import redacted
from spa3r.train.servers import mlflow_store, require_mlflow

PACKAGES = (
    "torch", "transformers", "prefect", "ray", "mlflow", "webdataset", "open3d",
    "opencv-python-headless", "pyarrow", "fsspec",
)  # fmt: skip
TEACHERS = {
    "VGGT-1B": ("models--facebook--VGGT-1B", "https://huggingface.co/facebook/VGGT-1B"),
    "DINOv3 ViT-L/16": (
        "models--facebook--dinov3-vitl16-pretrain-lvd1689m",
        "https://huggingface.co/facebook/dinov3-vitl16-pretrain-lvd1689m (licence to accept)",
    ),
}
DEMO_BYTES = 2 << 30


def report() -> str:
    """All findings as lines of `ok`, `--` (absent, needed only for what the line says) or `!!`."""
    return "\n".join(f"{mark}  {what}" for mark, what in _findings())


def _findings() -> Iterator[tuple[str, str]]:
    settings = Settings.from_environment()
    supported = (3, 11) <= sys.version_info[:2] <= (3, 12)
    yield _mark(supported), f"Python {platform.python_version()} (3.11 and 3.12 are supported)"
    yield "ok", f"{os.cpu_count()} cores, {_memory_gib():.0f} GiB memory"
    yield from _packages()
    yield from _libraries()
    yield from _device()
    home = settings.home
    free = shutil.disk_usage(next(p for p in (home, *home.parents) if p.exists())).free
    yield _mark(free > DEMO_BYTES), f"{free / 2**30:.0f} GiB free at SPA3R_HOME {home}"
    yield "ok", f"workers: {settings.workers} for data, {settings.train_workers} for training"
    yield from _services(settings)
    yield from _teachers()


def _mark(good: bool) -> str:
    return "ok" if good else "!!"


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _packages() -> Iterator[tuple[str, str]]:
    for name in PACKAGES:
        try:
            yield "ok", f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            yield "!!", f"{name} is not installed: run `make setup`"


def _libraries() -> Iterator[tuple[str, str]]:
    try:
        import open3d  # noqa: F401 (its system libraries load on import)
    except (ImportError, OSError) as error:
        yield "!!", f"Open3D does not load ({error}): apt-get install libusb-1.0-0 libgl1 libgomp1"
    else:
        yield "ok", "Open3D loads (system libraries are there)"


def _device() -> Iterator[tuple[str, str]]:
    import torch

    if torch.cuda.is_available():
        names = {torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
        yield "ok", f"{torch.cuda.device_count()} GPU: {', '.join(sorted(names))}"
    else:
        yield "--", "no GPU: recipe `tiny` runs; `paper` and `release` need one"


def _services(settings: Settings) -> Iterator[tuple[str, str]]:
    try:
        require_mlflow(mlflow_store(settings.mlflow_uri))
    except (ServiceError, ConfigError) as error:
        yield "!!", str(error)
    else:
        yield "ok", f"MLflow: {redacted(settings.mlflow_uri)}"
    try:
        require_prefect_server()
    except ServiceError as error:
        yield "!!", str(error)
    else:
        server = redacted(os.environ.get("PREFECT_API_URL", "ephemeral, on loopback"))
        yield "ok", f"Prefect: {server}; database {settings.prefect_database}"
    yield "ok", f"Ray: {redacted(os.environ.get('RAY_ADDRESS', 'local, started when needed'))}"


def _teachers() -> Iterator[tuple[str, str]]:
    cache = os.environ.get("HF_HOME", str(Path.home() / ".cache/huggingface"))
    yield "ok", "teacher rgbd: built in, needs posed RGB-D"
    for name, (folder, page) in TEACHERS.items():
        if (Path(cache) / "hub" / folder).is_dir():
            yield "ok", f"teacher {name}: in the Hugging Face cache"
        else:
            yield "--", f"teacher {name}: not in the cache; photos need it; {page}"
