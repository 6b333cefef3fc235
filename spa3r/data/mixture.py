"""Several instruction sets as one: what is kept of each, and which of it an epoch learns from.

What an epoch holds is a pure function of (sets, weights, seed, number of the epoch). A weight of
0.25 takes a quarter of its set, and each epoch the next quarter of one fixed shuffle: four epochs
see all of it once. A weight of 2 takes all of it twice. When a shuffle is used up, another follows.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np

from spa3r.data.instruction_sets import InstructionSet, told
from spa3r.errors import ConfigError
from spa3r.guard import drop_reason, held_out_media
from spa3r.instructions import Instruction
from spa3r.plain import config_hash
from spa3r.tune_config import MixtureConfig

DUPLICATE: Final = "duplicate"
MANY_IMAGES: Final = "too_many_images"


class Mixture:
    """The conversations that are kept, numbered over all sets; and epochs of their numbers."""

    def __init__(self, config: MixtureConfig, sets: Mapping[str, InstructionSet]) -> None:
        """Goes through all conversations once, holding 16 bytes of each.

        Left out, with the reason counted: a conversation about a benchmark's scene, with more
        images than `max_images`, or with the same media, marks and questions as one before it, in
        whichever set. Conversations that are too long are known only when their tokens are.

        Args:
            sets: by the names in `config.weights`; others are not looked at.

        Raises:
            ConfigError: a set is not among them, or nothing is left of one.
        """
        self._config = config
        names = [name for name, _ in config.weights]
        if absent := sorted(set(names) - set(sets)):
            raise ConfigError(
                f"no instruction set {', '.join(absent)}; there are {sorted(sets)}: import it"
                " (`spa3r instruct`), or change mixture.weights"
            )
        self._names = names
        self._sets = [sets[name] for name in names]
        self.dropped: dict[str, Counter[str]] = {}
        """By set: reason -> conversations left out."""
        seen = set[bytes]()
        self._kept = [self._look_through(name, seen) for name in names]
        self._ends = np.cumsum([len(kept) for kept in self._kept])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, number: int) -> Instruction:
        """A conversation by its number."""
        which, place = self._locate(number)
        return self._sets[which].instructions[place]

    def __iter__(self) -> Iterator[Instruction]:
        """All of them by number; much faster than one by one."""
        for given, kept in zip(self._sets, self._kept, strict=True):
            rows = set(kept.tolist())
            yield from (one for row, one in enumerate(given.instructions) if row in rows)

    def set_of(self, number: int) -> str:
        """Name of the set that a conversation is from."""
        return self._names[self._locate(number)[0]]

    def media_root(self, number: int) -> str:
        """Where a conversation's media are."""
        return self._sets[self._locate(number)[0]].media_root

    @property
    def epoch_size(self) -> int:
        """Conversations of an epoch, the same for all of them."""
        return sum(self._share(which) for which in range(len(self._sets)))

    @property
    def hash(self) -> str:
        """16 hex digits over the sets' contents and all that decides what an epoch is: also which
        rows are kept, because the guard's lists may grow."""
        found = zip(self._names, self._sets, self._kept, strict=True)
        return config_hash(
            self._config,
            {name: [of.hash, _digest(kept.tobytes()).hex()] for name, of, kept in found},
        )

    def epoch(self, number: int) -> np.ndarray:
        """Numbers of the conversations of an epoch (from 0), int64, shuffled.

        Where one shuffle of a set ends within the epoch and the next begins, one may come twice.
        """
        taken = [self._take(which, number) for which in range(len(self._sets))]
        order = self._rng("epoch", number).permutation(self.epoch_size)
        return np.concatenate(taken)[order]

    # --- which are kept ---------------------------------------------------------------------------

    def _look_through(self, name: str, seen: set[bytes]) -> np.ndarray:
        """Rows of a set that are kept, ascending."""
        given, drops = self._sets[self._names.index(name)], Counter[str]()
        kept: list[int] = []
        for row, one in enumerate(given.instructions):
            reason = self._why_not(one)
            if not reason:
                key = same_question(one, given.media_root)
                reason = DUPLICATE if key in seen else ""
                seen.add(key)
            if reason:
                drops[reason] += 1
            else:
                kept.append(row)
        self.dropped[name] = drops
        if not kept:
            raise ConfigError(
                f"instruction set {name} ({given.where}): nothing is left of it ({told(drops)});"
                " change mixture.weights, or import another one"
            )
        return np.array(kept, np.int64)

    def _why_not(self, one: Instruction) -> str:
        guarded = self._config.benchmark_scenes == "keep_out"
        if guarded and held_out_media(one.dataset, one.scene, one.media):
            return drop_reason(one.dataset)
        many = one.media_kind == "images" and len(one.media) > self._config.max_images
        return MANY_IMAGES if many else ""

    def _locate(self, number: int) -> tuple[int, int]:
        """(which set, which row of it). Raises IndexError."""
        if not 0 <= number < len(self):
            raise IndexError(f"conversation {number} of {len(self)}")
        which = int(np.searchsorted(self._ends, number, side="right"))
        first = int(self._ends[which]) - len(self._kept[which])
        return which, int(self._kept[which][number - first])

    # --- which of them an epoch has ---------------------------------------------------------------

    def _share(self, which: int) -> int:
        _, weight = self._config.weights[which]
        return max(1, round(weight * len(self._kept[which])))

    def _take(self, which: int, epoch: int) -> np.ndarray:
        """The epoch's part of an endless row of shuffles of a set."""
        total, share = len(self._kept[which]), self._share(which)
        begin, end = epoch * share, (epoch + 1) * share
        first = int(self._ends[which]) - total
        parts = [
            self._rng(self._names[which], shuffle).permutation(total)[
                max(0, begin - shuffle * total) : end - shuffle * total
            ]
            for shuffle in range(begin // total, (end - 1) // total + 1)
        ]
        return first + np.concatenate(parts)

    def _rng(self, what: str, number: int) -> np.random.Generator:
        text = json.dumps([self._config.seed, what, number])
        digest = hashlib.sha256(text.encode()).digest()
        return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:8], "little")))


def same_question(one: Instruction, media_root: str) -> bytes:
    """16 bytes that conversations share which ask the same of the same media with the same marks.

    Blanks do not count, nor do answers: of two answers to one question the first is learnt.
    """
    here = media_root.rstrip("/")
    media = [
        path if "://" in path or path.startswith("/") else f"{here}/{path}" for path in one.media
    ]
    asked = [" ".join(turn.text.split()) for turn in one.turns if turn.role == "user"]
    marks = [[mark.kind, mark.colour, mark.image, mark.xy, mark.label] for mark in one.marks]
    text = json.dumps([one.media_kind, media, asked, marks])
    return _digest(text.encode())


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()
