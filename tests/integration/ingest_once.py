"""Child of test_ingest_kill.py: one ingest, with a limit on file size where asked for.

Usage: python -m tests.integration.ingest_once RAW OUT WORKERS [FILE_BYTES]
"""

import logging
import resource
import sys

from preprocessing.dataset import ingest_dataset
from preprocessing.runners import local_runner
from spa3r.config import IngestSpec
from spa3r.errors import Spa3RError

SPEC = IngestSpec(width=84, multiple=14)


def main(raw: str, out: str, workers: str, file_bytes: str = "") -> int:
    logging.basicConfig(level=logging.ERROR)
    if file_bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(file_bytes), int(file_bytes)))
    print("ready", flush=True)
    try:
        ingest_dataset(raw, "", SPEC, out, runner=local_runner(int(workers)))
    except Spa3RError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
