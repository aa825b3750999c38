"""The training loop: one for every objective, exact to the bit on resume.

What is notable:
- The batch of a step is a pure function of (seed, step), dropout is reseeded from (seed, step,
  micro-step), the learning rate is a function of the step: a checkpoint holds weights, optimizer
  and counters, and nothing else is needed to go on exactly.
- Gradients of micro-batches are sums over targets; one division by the batch's target count comes
  at the end, so accumulation does not change the objective.
- A loss or gradient that is not finite stops before the update and names the batch.
- bfloat16 products by autocast over float32 weights.
- Ctrl-C and SIGTERM end a run after a whole step, which is saved (`training.stopping`). What is
  saved beside the schedule, then or by the clock, goes when a later checkpoint is there.
- Several processes (torchrun) share out the rows of every micro-batch; their number does not change
  which rows those are, so 1, 2 and 4 differ by rounding only (and by dropout's masks).
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lmlab.config import to_mapping
from lmlab.config.model import WRITES
from lmlab.config.training import TrainConfig
from lmlab.data.store import TokenStore
from lmlab.data.windows import key, row_keys
from lmlab.durable import to_json
from lmlab.errors import UserError
from lmlab.models.backbone import Backbone
from lmlab.models.build import write_nothing
from lmlab.models.files import load_weights, model_files
from lmlab.models.head import head_files, is_tied
from lmlab.objectives.added import source_of
from lmlab.objectives.base import Batch, Objective
from lmlab.processes import (
    from_first,
    is_first,
    join,
    rank,
    rows_of_this,
    sum_over_processes,
    world,
)
from lmlab.progress import Bar, say, shown
from lmlab.run_folders.checkpoint import (
    Newest,
    checkpoint_folder,
    final_step,
    finish_with,
    is_finished,
    newest_checkpoint,
    prune_checkpoints,
    read_json_file,
    save_checkpoint,
)
from lmlab.run_folders.journal import RunJournals, cut_back, read_journal
from lmlab.run_folders.rundir import RunDirectory
from lmlab.training.hardware import (
    fastest_attention,
    keep_freed_memory,
    numeric_key,
    peak_memory,
)
from lmlab.training.lengthen import copy_start
from lmlab.training.opening import FirstSteps, say_what_begins
from lmlab.training.optimizers import Optimizers, rate_factor
from lmlab.training.replicas import Replicas, whole
from lmlab.training.setup import (
    ResolvedRun,
    initial_model,
    resolve_run,
    training_batches,
    training_objective,
    training_tokenizer,
)
from lmlab.training.stopping import Stopped, StopRequest
from lmlab.training.validation import Patience, make_validation

_TIMING_EVERY_SECONDS = 5.0
_OF_MICRO_BATCH = 0xCA4D  # keeps its draws apart from those of its rows and from dropout


@dataclass(frozen=True)
class TrainedRun:
    """A finished run: its folder, its identity and its last checkpoint (with early stopping, the
    best)."""

    path: Path
    identity: str
    checkpoint: Path

    @property
    def name(self) -> str:
        """What reports call it: the name of its folder."""
        return self.path.name


class NonFiniteError(UserError):
    """The loss, the gradient or what validation gives is not a number; nothing was saved."""


def train(
    request: TrainConfig | ResolvedRun,
    *,
    bar: Bar | None = None,
    note: str = "",
    watch: Callable[[Mapping[str, Any]], None] | None = None,
) -> TrainedRun:
    """Trains the run that is asked for, or resumes it, or returns it if it is finished.

    `bar` counts tokens, with `note` (default: a bar of its own, after words on what begins).
    `watch` is told each record of the journal, in the first process.

    Raises `UserError` for a damaged store, a folder that holds another run, a non-finite loss and
    a full disk, and `Stopped` after Ctrl-C or SIGTERM.
    """
    store = TokenStore((request.config if isinstance(request, ResolvedRun) else request).store)
    if is_first():
        store.verify()
    run = request if isinstance(request, ResolvedRun) else resolve_run(request, store)
    config, path = run.config, run.path
    join(config.device)
    held = nullcontext()
    if is_first():
        held = RunDirectory(
            path,
            identity=run.identity,
            config=to_mapping(config),
            store_fingerprint=store.fingerprint,
            objective_source=source_of(config.pair),
        )
    with held:
        if is_first():
            copy_start(config, path)
        newest = _newest_for_all(path)
        for reason in newest.skipped:
            say(f"skipping a checkpoint: {reason}")
        if newest.path is not None and _ended(config, path, newest.step):
            if is_first() and config.early_stopping is None:
                _prune(run, newest.step)  # after a kill
            if bar:
                bar.skip(run.tokens)
            else:
                say(f"{path}: finished before, at step {newest.step}")
        else:
            trainer = Trainer(run, store, newest)
            if bar is None:
                trainer.say_what_begins()
            with shown(bar, f"training {config.order}", run.tokens, "tokens") as counted:
                trainer.run(counted, note, quiet=bar is not None, watch=watch)
    return TrainedRun(path, run.identity, checkpoint_folder(path, final_step(path, config.steps)))


def _newest_for_all(path: Path) -> Newest:
    """The newest checkpoint, which the first process verifies for all."""
    newest = newest_checkpoint(path) if is_first() else Newest(None, 0, ())
    folder, step, skipped = from_first(
        [newest.path and str(newest.path), newest.step, newest.skipped]
    )
    return Newest(folder and Path(folder), step, tuple(skipped))


def _ended(config: TrainConfig, path: Path, step: int) -> bool:
    """Whether the run whose newest checkpoint is of `step` is over."""
    if config.early_stopping is not None and not is_finished(path):
        return False  # which checkpoint is the best has still to be settled
    return step == final_step(path, config.steps)


def _prune(run: ResolvedRun, newest: int) -> None:
    """Removes checkpoints that are too many, or were saved beside the schedule."""
    prune_checkpoints(
        run.path,
        run.config.checkpoints.keep,
        newest=newest,
        spare=run.word_steps,
        belongs=run.due,
    )


class Trainer:
    """One process's state while it trains."""

    def __init__(self, resolved: ResolvedRun, store: TokenStore, newest: Newest) -> None:
        config, path = resolved.config, resolved.path
        assert config.device in ("cpu", "cuda")
        assert config.threads is not None
        assert config.micro_batch is not None
        self.resolved, self.config, self.path, self.step = resolved, config, path, newest.step
        self.store, self.micro_batch = store, config.micro_batch
        self.device = torch.device(config.device)
        torch.set_num_threads(config.threads)
        keep_freed_memory()
        self.tokenizer = training_tokenizer(config, store)
        self.objective: Objective = training_objective(resolved, store, self.tokenizer)
        self.windows = training_batches(config, store)
        self.validation = make_validation(config, store, self.objective)
        self.model = initial_model(resolved, store, self.tokenizer, newest)
        if newest.path is not None:
            load_weights(self.model, newest.path / "model.safetensors")
        torch.nn.Module.to(self.model, self.device)
        attention = fastest_attention(config.device, config.context)
        if attention and hasattr(self.model.config, "num_attention_heads"):
            self.model.set_attn_implementation(attention)
        if config.compile:
            # A process has a number of graphs after which PyTorch falls back to eager, without an
            # error and with other bits; models that were trained here before must not count
            torch.compiler.reset()
        self.backbone = Backbone(self.model, compile_body=config.compile)
        self.objective.check(self.backbone)
        _ = self.backbone.takes_padding  # tried out while the model is whole; kept
        if newest.path is None and config.model.zero_init:  # after the trials, which it would blind
            write_nothing(self.model, WRITES[config.model.architecture])
        self.model.train()
        self.replicas = Replicas(
            self.backbone,
            sharded=config.fsdp,
            loss=lambda: self._loss_of(
                self._batch(0, self.windows.indices(0), rows_of_this(range(self.micro_batch)))
            )()[0],
        )
        self.optimizers = Optimizers(
            self.model, config.optimizer, products=getattr(torch, config.dtype)
        )
        self.numeric = numeric_key(config)
        self.stop, self.told = StopRequest(), (False, False)
        self.saved_at = time.monotonic()
        self.tokens = 0
        self.restored = newest.path is not None
        journal_sha256 = None if newest.path is None else self._restore(newest.path)
        if is_first():
            cut_back(path / "journal.jsonl", self.step, every_step=True, sha256=journal_sha256)
            cut_back(path / "timing.jsonl", self.step)
        from_first(None)  # the others read the journal after it was cut
        self.patience = None
        if config.early_stopping is not None:
            history = read_journal(path / "journal.jsonl")
            self.patience = Patience(self.validation, config.early_stopping, history)

    def _restore(self, checkpoint: Path) -> str | None:
        """The digest of the journal before it; checkpoints made before it was kept have none."""
        state = read_json_file(checkpoint / "state.json")
        differing = {
            name: (state["numeric"].get(name), value)
            for name, value in (dict.fromkeys(state["numeric"]) | self.numeric).items()
            if state["numeric"].get(name) != value
        }
        if differing:
            what = ", ".join(f"{n}: {old} then, {new} now" for n, (old, new) in differing.items())
            if self.config.strict:
                raise UserError(f"{checkpoint}: `strict`, and settings differ ({what})")
            say(f"resuming equivalently, not bitwise: {what}")
        self.optimizers.load(checkpoint / "optimizer.safetensors")
        self.tokens = state["tokens"]
        say(f"resuming {self.path} after step {self.step}")
        return state.get("journal_sha256")

    def say_what_begins(self) -> None:
        weights = [(p.numel(), p.requires_grad) for p in self.model.parameters()]
        trained = sum(n for n, is_trained in weights if is_trained)
        say_what_begins(
            self.config, self.store, weights=sum(n for n, _ in weights), trained=trained
        )

    def run(
        self,
        bar: Bar,
        note: str,
        *,
        quiet: bool,
        watch: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> None:
        """Trains to the end; `quiet` says nothing of how long that will take."""
        config = self.config
        pace = FirstSteps(config, quiet=quiet)
        journals = RunJournals(self.path)
        bar.skip(self.step * config.step_windows * config.context)
        if not self.restored and self.resolved.due(0):
            self._save(journals)
        clock = self.saved_at = time.monotonic()
        clock_tokens, clock_step = self.tokens, self.step
        stopping = False
        try:
            with self.stop:
                while not (stopping or self._over()):
                    record = self.update()
                    pace.saw(self.step)
                    if self.step % config.evaluation_interval() == 0 or self.step == config.steps:
                        record |= self._validate()
                    journals.append(record)
                    if watch is not None and is_first():
                        watch(record)
                    best = self.patience is not None and self.patience.saw(record)
                    stopping, overdue = self._told() if world() == 1 else self.told
                    elapsed = time.monotonic() - clock
                    if elapsed >= _TIMING_EVERY_SECONDS or stopping or self.step == config.steps:
                        speed = (self.tokens - clock_tokens) / elapsed
                        journals.append_timing(self._timing(speed, elapsed, self.step - clock_step))
                        clock, clock_tokens, clock_step = time.monotonic(), self.tokens, self.step
                    due = self.resolved.due(self.step)
                    if best or due or overdue or stopping:
                        self._save(journals)
                    how_far = f"step {self.step}/{config.steps}, loss {record['loss']:.3f}"
                    bar.advance(config.step_windows * config.context, f"{note} {how_far}".strip())
                if self.patience and self._over():
                    bar.skip((config.steps - self.step) * config.step_windows * config.context)
                    if is_first():
                        finish_with(self.path, self.patience.best_step)
                    from_first(None)
        finally:
            journals.close()
        if stopping or self.stop.asked:
            raise Stopped(self._how_it_stands(), self.stop.number or signal.SIGTERM)

    def _validate(self) -> dict[str, float]:
        with self._autocast():
            measured = self.replicas.measure(lambda: self.validation.measure(self.backbone))
        self._check_finite(measured)
        return measured

    def _over(self) -> bool:
        exhausted = self.patience is not None and self.patience.exhausted
        return self.step >= self.config.steps or exhausted

    def _told(self) -> tuple[bool, bool]:
        """Whether this process was told to stop, and whether the clock asks for a checkpoint."""
        seconds = 60 * self.config.checkpoints.minutes
        overdue = 0 < seconds <= time.monotonic() - self.saved_at
        return self.stop.asked, overdue and is_first()

    def _how_it_stands(self) -> str:
        if self._over():
            return f"{self.path} is finished"
        saved = checkpoint_folder(self.path, self.step)
        return f"stopped after step {self.step:,} of {self.config.steps:,}, saved in {saved}"

    def _autocast(self) -> Any:
        if self.config.dtype == "bfloat16":
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()

    def update(self) -> dict[str, Any]:
        """One optimizer step; returns its journal record."""
        config = self.config
        indices_B = self.windows.indices(self.step)
        starts = range(0, config.step_windows, self.micro_batch)
        sums = np.zeros((len(starts) + 1, 2))  # nats and targets; last, `_told`
        for micro, start in enumerate(starts):
            rows = rows_of_this(range(start, start + self.micro_batch))
            batch = self._batch(self.step, indices_B, rows)
            torch.manual_seed(key(config.seed, self.step, micro, rank()))
            with self.replicas.summing(now=micro == len(starts) - 1):
                with self._autocast():
                    loss, targets = self.replicas.forward(self._loss_of(batch))
                value = float(loss.detach())
                if value != value or value in (float("inf"), float("-inf")):
                    raise self._non_finite("loss", value, indices_B[rows.start : rows.stop])
                sums[micro] = value, targets
                loss.backward()
        sums[-1] = self._told()
        sums = sum_over_processes(sums)
        sums_S2, self.told = sums[:-1], (bool(sums[-1, 0]), bool(sums[-1, 1]))
        least = int(sums_S2[:, 1].argmin())
        if sums_S2[least, 1] < (2 if self.objective.criterion.depends_on_micro_batch else 1):
            first = starts[least]
            chosen = indices_B[first : first + self.micro_batch]
            raise self._no_targets(int(sums_S2[least, 1]), chosen)
        total, count = float(sums_S2[:, 0].sum()), int(sums_S2[:, 1].sum())
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        for parameter in parameters:
            assert parameter.grad is not None
            parameter.grad.div_(count)
        norm = float(whole(torch.nn.utils.clip_grad_norm_(parameters, config.optimizer.clip)))
        if norm != norm or norm == float("inf"):
            raise self._non_finite("gradient norm", norm, indices_B)
        rate = config.peak_rate * rate_factor(self.step, config)
        self.optimizers.step(rate)
        self.step += 1
        self.tokens += count
        record = {
            "step": self.step,
            "tokens": self.tokens,
            "loss": total / count,
            "gradient_norm": norm,
            "learning_rate": rate,
        }
        if self.objective.criterion.depends_on_micro_batch:
            record["targets_per_micro_batch"] = count / (config.step_windows // self.micro_batch)
        return record

    def _batch(self, step: int, indices_B: np.ndarray, rows: range) -> Batch:
        """These rows of the batch of a step, whose windows are `indices_B`."""
        batch = self.objective.reading.batch(
            list(self.windows.ids(indices_B[rows.start : rows.stop])),
            device=self.device,
            keys=row_keys(rows, self.config.seed, step),
        )
        # of the micro-batch, not of this process's rows: all processes draw the same
        return replace(
            batch, key=key(self.config.seed, step, rows.start // self.micro_batch, _OF_MICRO_BATCH)
        )

    def _loss_of(self, batch: Batch) -> Callable[[], tuple[torch.Tensor, int]]:
        return lambda: self.objective.loss(self.backbone, batch)

    def synchronise(self) -> None:
        """Waits for the device, so that a clock read next counts its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _non_finite(self, what: str, value: float, indices: Any) -> NonFiniteError:
        return NonFiniteError(
            f"{self.path}: the {what} is {value} at step {self.step + 1}; nothing was updated. "
            f"{self._named(indices)}. Lower `optimizer.learning_rate`, or look at that text."
        )

    def _check_finite(self, measured: Mapping[str, float]) -> None:
        for name, value in measured.items():
            if not math.isfinite(value):
                raise NonFiniteError(
                    f"{self.path}: the {name.replace('_', ' ')} is {value} after step {self.step}. "
                    "Lower `optimizer.learning_rate`; the run goes on from its last checkpoint"
                )

    def _no_targets(self, targets: int, indices: Any) -> UserError:
        what = "one target has no negatives" if targets else "there is nothing to predict"
        return UserError(
            f"{self.path}: {what} in a micro-batch of step {self.step + 1}. "
            f"{self._named(indices)}. Use a larger `micro_batch` or `context`."
        )

    def _named(self, indices: Any) -> str:
        names = [name for i in indices[:8] for name in self.windows.documents(int(i))]
        return (
            f"Windows {[int(i) for i in indices[:8]]} of {self.config.store}, documents "
            f"{', '.join(dict.fromkeys(names))}"
        )

    def _timing(self, speed: float, elapsed: float, steps: int) -> dict[str, Any]:
        return {
            "step": self.step,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(elapsed, 3),
            "steps": steps,
            "tokens_per_second": round(speed, 1),
            "peak_memory_bytes": peak_memory(self.device.type),
        }

    def _save(self, journals: RunJournals) -> None:
        # the journal first: a checkpoint must never be ahead of it
        journals.sync()
        parent = self.config.lengthened.from_checkpoint or self.config.parent.path
        record = {
            "format": "lmlab model 1",
            "objective": self.objective.record(),
            "order": self.objective.order,
            "head": ("tied" if is_tied(self.model) else "untied")
            + (f" + {prior} log-unigram bias" if (prior := self.config.output_prior()) else ""),
            "context": self.config.context,
            "step": self.step,
            "tokenizer_fingerprint": self.tokenizer.fingerprint,
            "run": self.resolved.identity,
            "training": self.resolved.deciding,
            **({"parent": parent} if parent else {}),
        }
        state = {"step": self.step, "tokens": self.tokens, "journal_sha256": journals.sha256}
        files = {
            **model_files(self.model, whole=whole),
            **head_files(self.model, whole=whole),
            **self.tokenizer.files(
                self.objective.reading.surround(self.model.config, self.config.context)
            ),
            "lmlab.json": to_json(record).encode(),
            "optimizer.safetensors": self.optimizers.to_bytes(),
            "state.json": to_json(state | {"numeric": self.numeric}).encode(),
        }
        if is_first():
            save_checkpoint(self.path, self.step, files)
            self._prune()
        self.saved_at = time.monotonic()

    def _prune(self) -> None:
        if self.patience is None:
            _prune(self.resolved, self.step)
        elif self.config.checkpoints.keep is not None:  # how it ends, `finish_with` sees to
            best = {self.patience.best_step}
            prune_checkpoints(self.path, self.config.checkpoints.keep, newest=self.step, spare=best)
