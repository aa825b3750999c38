"""Trackers: what a run's journal gets, also told to TensorBoard or Trackio (extra `track`).

Training knows nothing of them: it calls what it is given with each record.

Notable:
- A tracker is opened, told and closed in a thread of its own, behind a bounded queue. One that is
  slow misses records; one that fails is left alone. Either is said once, and the run goes on.
- What is being written when a run ends has a few seconds to end as well.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from lmlab.config import to_mapping
from lmlab.config.tracked import TrackedTrainConfig, TrackerName
from lmlab.config.training import TrainConfig
from lmlab.data.store import TokenStore
from lmlab.errors import UserError, install_extra
from lmlab.progress import say
from lmlab.training.loop import TrainedRun, train
from lmlab.training.setup import resolve_run

Record = Mapping[str, Any]

_WAITING = 1000  # records
_SECONDS_TO_END = 10.0


class Writer(Protocol):
    """What a tracker does with a record; both may take their time, and may fail."""

    def write(self, record: Record) -> None: ...

    def close(self) -> None: ...


class Tracker:
    """Hands records to a writer that is opened in a thread of its own."""

    def __init__(
        self, name: str, open_writer: Callable[[], Writer], *, waiting: int = _WAITING
    ) -> None:
        self.name = name
        self._open = open_writer
        self._queue: queue.Queue[Record | None] = queue.Queue(waiting)
        self._missed, self._has_failed = 0, False
        self._thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)
        self._thread.start()

    def __call__(self, record: Record) -> None:
        """Never waits."""
        if self._has_failed:
            return
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            if not self._missed:
                say(f"warning: {self.name} is slower than training, and misses steps")
            self._missed += 1

    def close(self, seconds: float = _SECONDS_TO_END) -> None:
        """Waits so long for what is still to be written."""
        end = time.monotonic() + seconds
        while self._thread.is_alive() and time.monotonic() < end:
            try:
                self._queue.put(None, timeout=0.1)
                break
            except queue.Full:  # or nobody takes any more, where it has failed
                continue
        self._thread.join(max(0.0, end - time.monotonic()))
        if self._thread.is_alive():
            say(f"warning: {self.name} has not ended in {seconds:g} s; it is left")

    def _work(self) -> None:
        try:
            writer = self._open()
            while (record := self._queue.get()) is not None:
                writer.write(record)
            writer.close()
        except Exception as error:  # whatever a tracker does is no fault of the run
            self._has_failed = True
            say(f"warning: {self.name} failed ({type(error).__name__}: {error}); the run goes on")


def train_tracked(config: TrackedTrainConfig) -> TrainedRun:
    """`training.loop.train`, with trackers that are told each record of the journal. Raises
    `UserError` also for a tracker that is not installed."""
    for name in config.track:
        if find_spec(name) is None:
            raise UserError(f"`track` {name} is not installed: {install_extra('track')}")
    request = config.run()
    if not config.track:
        return train(request)
    run = resolve_run(request, TokenStore(request.store))
    trackers: list[Tracker] = []

    def tell(record: Record) -> None:
        if not trackers:  # only now does the run's folder surely exist
            trackers.extend(
                Tracker(name, partial(_WRITERS[name], run.config, run.path))
                for name in config.track
            )
        for tracker in trackers:
            tracker(record)

    try:
        return train(run, watch=tell)
    finally:
        for tracker in trackers:
            tracker.close()


class _TensorBoard:
    """Event files in the run's folder `tensorboard`; a resumed run's later steps replace those that
    were not saved."""

    def __init__(self, config: TrainConfig, path: Path) -> None:
        self._folder, self._writer = path / "tensorboard", None

    def write(self, record: Record) -> None:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._folder), purge_step=record["step"])
        for name, value in _numbers(record).items():
            self._writer.add_scalar(name, value, record["step"])

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class _Trackio:
    """A run of the project `lmlab`, by the name of its folder, which a resumed run goes on with."""

    def __init__(self, config: TrainConfig, path: Path) -> None:
        import trackio

        self._run = trackio.init(
            project="lmlab", name=path.name, config=to_mapping(config), resume="allow"
        )

    def write(self, record: Record) -> None:
        self._run.log(_numbers(record), step=record["step"])

    def close(self) -> None:
        self._run.finish()


_WRITERS: dict[TrackerName, Callable[[TrainConfig, Path], Writer]] = {
    "tensorboard": _TensorBoard,
    "trackio": _Trackio,
}


def _numbers(record: Record) -> dict[str, float]:
    """Validation measures as a group of their own."""
    return {
        name.replace("validation_", "validation/"): float(value)
        for name, value in record.items()
        if name != "step"
    }
