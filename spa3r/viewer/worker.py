"""One background thread for all that asks the model, so that neither the page nor its server waits.

A slider that is dragged asks faster than a model answers: of each kind of task only the newest
waits, the older ones are dropped before they start.
"""

import logging
import threading
from collections.abc import Callable

from spa3r.errors import Spa3RError

log = logging.getLogger(__name__)


class Worker:
    """Runs tasks one at a time, in the order in which their names were first asked for.

    Args:
        show: called on the worker's thread with the errors of the tasks that failed at their last
            run, one line each, whenever they changed; empty once all went well.
    """

    def __init__(self, show: Callable[[list[str]], None]) -> None:
        self._show = show
        self._changed = threading.Condition()
        self._waiting: dict[str, Callable[[], None]] = {}
        self._errors: dict[str, str] = {}
        self._busy = False
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="spa3r-viewer", daemon=True)
        self._thread.start()

    def ask(self, name: str, task: Callable[[], None]) -> None:
        """Runs a task soon, instead of one of the same name that still waits."""
        with self._changed:
            self._waiting[name] = task
            self._changed.notify_all()

    def wait(self, timeout: float | None = None) -> bool:
        """Until nothing waits or runs, or the worker is closed. False: not within `timeout` s."""
        with self._changed:
            return self._changed.wait_for(
                lambda: self._closed or not (self._waiting or self._busy), timeout
            )

    def close(self) -> None:
        """Drops what waits; gives a task that runs a moment to end."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()
        self._thread.join(timeout=2)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._waiting)
                if self._closed:
                    return
                name = next(iter(self._waiting))
                task = self._waiting.pop(name)
                self._busy = True
            self._run(name, task)
            with self._changed:
                self._busy = False
                self._changed.notify_all()

    def _run(self, name: str, task: Callable[[], None]) -> None:
        before = dict(self._errors)
        try:
            task()
            self._errors.pop(name, None)
        except Spa3RError as error:
            self._errors[name] = str(error)
        except Exception as error:  # the thread must outlive a task: out of memory, say
            log.exception("viewer: %s failed", name)
            self._errors[name] = f"{name}: {type(error).__name__}: {error}"
        if self._errors != before and not self._closed:
            self._show(list(self._errors.values()))
