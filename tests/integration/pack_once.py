"""One run of pack_targets, to be killed: python -m tests.integration.pack_once TARGETS OUT N."""

import sys

from preprocessing.pack import pack_targets


def run(targets: str, out: str, workers: int) -> None:
    pack_targets(targets, out, clips_per_shard=4, workers=workers)


if __name__ == "__main__":
    print("ready", flush=True)
    run(sys.argv[1], sys.argv[2], int(sys.argv[3]))
