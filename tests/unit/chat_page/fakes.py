"""A model that says what a test wants it to say."""

import threading
from collections.abc import Callable, Iterator

import numpy as np

from spa3r.chat_page.seen import Answered, Seen, Written
from spa3r.errors import ConfigError
from spa3r.vision_input import SceneViews


class FakeModel:
    """Answers with the question's words, one after the other."""

    facts = {"Model": "<fake>", "Encoder": "none"}  # noqa: RUF012 (nobody writes to it)
    photos_refused = ""
    working_size = (84, 28)
    max_views = 4

    def __init__(self) -> None:
        self.looked: list[SceneViews] = []
        self.closed = threading.Event()
        self.before_word: Callable[[str], None] = lambda word: None
        self.at_work, self.most_at_work = 0, 0

    def look(self, views: SceneViews) -> Seen:
        self.looked.append(views)
        return Seen(views=views, maps={"geometric": np.zeros_like(views.rgb_VHW3)})

    def answer(self, seen: Seen, question: str) -> Iterator[str | Written | Answered]:
        self.at_work += 1
        self.most_at_work = max(self.at_work, self.most_at_work)
        try:
            if "fail" in question:
                raise ConfigError("this\ncannot be answered")
            for word in question.split():
                self.before_word(word)
                yield word + " "
            count = len(seen.views.rgb_VHW3)
            yield Written(seconds=0.5, truncated=False)
            yield Answered(view_shares=(1 / count,) * count)
        finally:
            self.at_work -= 1
            self.closed.set()
