"""An answer in pieces, while the model is still writing it."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from transformers import TextIteratorStreamer

from spa3r.vlm.batch import VlmBatch
from spa3r.vlm.model import Spa3VlmModel
from spa3r.vlm.processor import Processor


class _StoppedError(Exception):
    """Nobody listens any more."""


class _Streamer(TextIteratorStreamer):
    """Transformers' streamer, with a way to stop the thread that feeds it."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(
            tokenizer,
            skip_prompt=True,
            skip_special_tokens=True,
            clean_up_tokenization_spaces=False,
        )
        self.stopped = threading.Event()

    def put(self, value: Any) -> None:
        """A new token, from the model's thread."""
        if self.stopped.is_set():
            raise _StoppedError
        super().put(value.cpu())

    def close(self) -> None:
        """No more text: whoever waits goes on."""
        self.text_queue.put(self.stop_signal)


def pieces(
    model: Spa3VlmModel,
    batch: VlmBatch,
    processor: Processor,
    max_new_tokens: int,
    alone: threading.Lock,
) -> Iterator[str]:
    """Text as it is generated for a batch of one conversation, padded on the left.

    Leaving the iterator ends the work after the token at hand. What generating raises is raised
    here.

    Args:
        alone: held while the model works.
    """
    streamer = _Streamer(processor.tokenizer)

    def work() -> None:
        try:
            with alone, suppress(_StoppedError):
                model.generate(batch, max_new_tokens=max_new_tokens, streamer=streamer)
        finally:
            streamer.close()

    with ThreadPoolExecutor(1, thread_name_prefix="spa3-vlm-answer") as threads:
        working = threads.submit(work)
        try:
            yield from (piece for piece in streamer if piece)
        finally:
            streamer.stopped.set()
        working.result()
