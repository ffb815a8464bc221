"""Train a model by a recipe on data sets, on one process or many; resumable bit for bit.

    from videomolmo.training.recipe import Recipe
    from videomolmo.training.trainer import train
    train(Recipe(out="runs/mine"))

Source: paper, section 3 and training details; `recipe.py` has the numbers.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, set_seed
from torch import Tensor
from torch.distributed.tensor import DTensor

from videomolmo.errors import BadInput
from videomolmo.io import provenance
from videomolmo.io.cache import key_of
from videomolmo.io.files import check_folder
from videomolmo.io.untrusted import read_model_json
from videomolmo.training.checkpoints import Checkpoints, locked, read_state
from videomolmo.training.data import (
    DistributedBatchSampler,
    MicroBatch,
    MicroBatches,
    Samples,
    dataloader,
    worker_deaths_as_bad_input,
)
from videomolmo.training.log import Diverged, DivergenceDetector, Monitor, dump_bad_batch, export, write_run
from videomolmo.training.model import Counts, Trainable, TrainState, accelerator_for, groups, rate, shard, speed
from videomolmo.training.pointing import Pointing
from videomolmo.training.recipe import Recipe
from videomolmo.weights import hub

CONTINUE, STOP_REQUESTED, NOT_FINITE = 0.0, 1.0, 2.0  # a process to the others, after a forward pass


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        step, total: steps done, and of the whole run.
        model: folder of the trained model, once all steps are done.
        checkpoint: the last one written.
        stopped_by: number of the signal that ended it early.
    """

    step: int
    total: int
    model: Path | None
    checkpoint: Path | None
    stopped_by: int | None = None


@dataclass
class Totals:
    """Sums over the passes of a step: of this process, then of all."""

    loss: float = 0.0
    weight: float = 0.0
    answers: float = 0.0
    tokens: float = 0.0
    samples: float = 0.0
    operations: float = 0.0
    waited_s: float = 0.0
    terms: list[float] = field(default_factory=list)  # of the loss
    passes: list[dict] = field(default_factory=list)
    last: dict[str, Tensor] = field(default_factory=dict)  # what the last pass was given

    def numbers(self) -> list[float]:
        counted = [self.loss, self.weight, self.answers, self.tokens, self.samples, self.operations, self.waited_s]
        return [*counted, *self.terms]

    def add(self, loss: float, terms: list[float], counts: Counts) -> None:
        """Count a pass in: its loss, the terms of it, and what it consists of."""
        self.loss += loss
        self.terms = [before + term for before, term in zip(self.terms or [0.0] * len(terms), terms, strict=True)]
        self.weight, self.answers = self.weight + counts.weight, self.answers + counts.answers
        self.tokens, self.samples = self.tokens + counts.tokens, self.samples + counts.samples


def train(recipe: Recipe, resume: str | Path | None = None, progress: bool = True) -> Outcome:
    """Run a recipe to its end, or until a signal; run it again to resume. Under `accelerate launch`, on all processes.

    The order of samples is a function of the seed and the step; each process takes its slice of every batch. So a run
    that was killed resumes to the same weights bit for bit, and one that resumes with another number of processes to
    the same up to the order of sums. SIGINT and SIGTERM end it with a checkpoint.

    Args:
        recipe: the whole run.
        resume: a checkpoint to go on from, in place of the newest in `recipe.out`.
        progress: whether to show a bar.

    Returns:
        What was done; the trained model lies in {out}/model.

    Raises:
        BadInput: data, model, settings or folder do not fit; before anything is written. Later, a clip that cannot be
            read, where the recipe does not replace it.
        Diverged: the loss is not finite or diverges; the samples that did it lie in {out}/offending.
    """
    check_folder(recipe.out, overwrite=True, results=False)  # before a large model is loaded
    accelerator = accelerator_for(recipe)
    sampler = DistributedBatchSampler(
        recipe.optimiser.batch, recipe.optimiser.micro_batch, accelerator.num_processes, accelerator.process_index
    )
    if recipe.optimiser.batch % (sampler.micro_batch * sampler.processes):
        raise BadInput(
            f"optimiser.batch is {sampler.batch}, expected a multiple of micro_batch × processes = "
            f"{sampler.micro_batch} × {sampler.processes}"
        )
    if recipe.run.deterministic:
        torch.use_deterministic_algorithms(True, warn_only=True)
    set_seed(recipe.run.seed)
    train_state = assemble(recipe, accelerator)
    samples, batches = train_state.kind.data(recipe, train_state.folder, train_state.model.config)
    total = recipe.optimiser.steps or math.ceil(recipe.optimiser.epochs * len(samples) / sampler.batch)
    run = _Training(recipe, train_state, samples, batches, sampler, total, progress)
    return run.go(Path(resume) if resume else None)


def kind_of(folder: Path) -> Trainable:
    """What is known of training a model of the kind that a folder's configuration tells."""
    values = read_model_json(folder / "config.json")
    if values.get("model_type") == "molmo2":
        from videomolmo.training.molmo2 import Molmo2

        return Molmo2()
    if values.get("model_type") == "videoglamm" or "image_mm_vision_tower" in values:  # ours, or published
        from videomolmo.training.videoglamm import VideoGLaMM

        return VideoGLaMM()
    return Pointing()


def assemble(recipe: Recipe, accelerator: Accelerator) -> TrainState:
    """Load a model for training and hand it to the engine: DDP, FSDP2, or neither for one process.

    Differs: accelerate offers FSDP2 on GPUs only; PyTorch's own call, used here, works on CPU processes too.

    Raises:
        BadInput: weights that are missing or do not fit, or parts that cannot learn.
    """
    folder = hub.pointing_folder(recipe.model.source, recipe.model.offline)
    asked = recipe.run.shard or accelerator.distributed_type == DistributedType.FSDP  # accelerate launch --use_fsdp
    sharded = asked and accelerator.num_processes > 1
    kind = kind_of(folder)
    model = kind.load(recipe, folder, accelerator, sharded)
    loss_module = kind.loss_module(model)
    if sharded:
        shard([loss_module], recipe, accelerator, root=True)
    settings = recipe.optimiser
    optimiser = torch.optim.AdamW(
        groups(kind, model, settings), betas=(settings.beta1, settings.beta2), eps=settings.epsilon,
        weight_decay=settings.weight_decay, fused=accelerator.device.type == "cuda",
    )  # fmt: skip
    if not sharded and accelerator.num_processes > 1:
        loss_module = accelerator.prepare_model(loss_module)
    return TrainState(accelerator, kind, model, loss_module, optimiser, sharded, folder)


class _Training:
    """One call of `train`: from a checkpoint or the start to the end or a signal."""

    def __init__(
        self, recipe: Recipe, train_state: TrainState, samples: Samples, batches: Callable[..., MicroBatches],
        sampler: DistributedBatchSampler, total: int, progress: bool,
    ) -> None:  # fmt: skip
        self.recipe, self.train_state, self.samples, self.batches = recipe, train_state, samples, batches
        self.sampler, self.total, self.progress = sampler, total, progress
        self.accelerator, self.folder = train_state.accelerator, Path(recipe.out)
        self.kind = train_state.kind
        self.operations = self.kind.operations(train_state.model, recipe.learn)
        self.detector = DivergenceDetector(recipe.run.diverged, recipe.run.drift_limit)
        self.resumed_from: str | None = None
        self.damaged: list[str] = []  # lines on checkpoints that were left out
        self.signal: int | None = None

    def go(self, resume: Path | None) -> Outcome:
        """Claim the folder, go on where it stopped, and train."""
        settings = self.recipe.reproducibility_key()
        if self.kind.by_pass:
            settings["optimiser"]["micro_batch"] = self.recipe.optimiser.micro_batch
        settings |= {"weights": hub.hashes(self.train_state.folder), "samples": self.samples.mark()}
        checkpoints = Checkpoints(self.folder / "checkpoints", key_of(settings), self.recipe.run.keep)
        if resume is not None:
            self._check_resume(checkpoints, resume)
        with ExitStack() as until_done:
            if self.accelerator.is_main_process:
                provenance.write_or_verify_manifest(self.folder, settings, "a training run")
                until_done.enter_context(locked(self.folder))
            self.accelerator.wait_for_everyone()
            return self._go_on(checkpoints, resume)

    def _check_resume(self, checkpoints: Checkpoints, resume: Path) -> None:
        """Whether the run can go on from a checkpoint that was named.

        Raises:
            BadInput: it is none, lies beyond the end, or the run went on from it already, which would be thrown away.
        """
        step = read_state(resume)["step"]
        if step > self.total:
            raise BadInput(f"{resume} is after step {step}, this run has {self.total}; give an earlier checkpoint")
        known = checkpoints.latest_state()
        if known.get("resumed_from") == str(resume.resolve()) and known["step"] > step:
            raise BadInput(
                f"{self.folder} already went on from {resume} to step {known['step']}; leave --resume away to go on "
                "from there, or give a new folder to begin at it again"
            )

    def _go_on(self, checkpoints: Checkpoints, resume: Path | None) -> Outcome:
        start = self._restore(checkpoints, resume)
        if self.accelerator.is_main_process:
            count, epoch = self.accelerator.num_processes, len(self.samples)
            write_run(self.folder, self.recipe, count, start, self.total, epoch, self.damaged)
        monitor = Monitor(
            self.folder, self.accelerator.is_main_process, start, self.total, self.recipe.run.log_every, self.progress
        )
        for line in self.damaged:
            monitor.note(f"videomolmo: {line}; resuming after step {start}")
        try:
            with self._signals():
                return self._steps(start, checkpoints, monitor)
        finally:
            monitor.close()

    def _restore(self, checkpoints: Checkpoints, resume: Path | None) -> int:
        """Fill everything from a checkpoint; returns the step to go on with, 0 without one."""
        state, self.damaged = checkpoints.restore(self.train_state, resume)
        if state is None:
            return 0
        if resume is not None and self.accelerator.is_main_process:
            checkpoints.drop_after(state["step"])
        self.resumed_from = state.get("resumed_from") if resume is None else str(resume.resolve())
        self.detector = replace(self.detector, **state["watch"])
        return state["step"]

    def _steps(self, start: int, checkpoints: Checkpoints, monitor: Monitor) -> Outcome:
        batches = self.batches(self.sampler, start, self.total)
        workers = self.recipe.run.workers
        with worker_deaths_as_bad_input(workers), closing(dataloader(batches, workers)) as source:
            return self._until_done(start, source, checkpoints, monitor)

    def _until_done(
        self, start: int, source: Iterator[MicroBatch], checkpoints: Checkpoints, monitor: Monitor
    ) -> Outcome:
        step, saved = start, None
        monitor.lap()
        while step < self.total:
            totals = self._passes(step, source)
            if totals is None:
                break
            row = self._update(step, totals)
            step += 1
            monitor.log(step, row | speed(row, monitor.lap(), self.recipe.run.peak_tflops, self.accelerator))
            saved = None
            if step % self.recipe.run.checkpoint_every == 0 or step == self.total:
                saved = checkpoints.save(self.train_state, self._state(step))
        if step == self.total:
            model = export(self.train_state, self.recipe, self.folder / "model")
            return Outcome(step, self.total, model, saved or checkpoints.latest())
        self.train_state.optimiser.zero_grad(set_to_none=True)  # of the step that was broken off
        if saved is None and step > start:  # an optimiser that has not stepped yet has no state to keep
            saved = checkpoints.save(self.train_state, self._state(step))
        return Outcome(step, self.total, None, saved or checkpoints.latest(), self.signal)

    def _passes(self, step: int, source: Iterator[MicroBatch]) -> Totals | None:
        """All forward and backward passes of a step; None when a signal asks to stop: nothing has changed then."""
        totals, turns = Totals(), self.sampler.passes
        for turn in range(turns):
            waiting = time.perf_counter()
            micro = next(source)
            set_seed(_seed(self.recipe.run.seed, self.sampler.positions(step, turn)[0]))  # whichever process has it
            totals.waited_s += time.perf_counter() - waiting
            totals.last = batch = {name: value.to(self.accelerator.device) for name, value in micro.tensors.items()}
            with self._gathering(last=turn == turns - 1):
                with self._precision():
                    terms = self.train_state.loss_module(batch)
                    loss = terms.sum()
                self._count(totals, batch, loss.item(), terms.tolist() if self.kind.terms else [], micro)
                told = self._agree(math.isfinite(totals.loss))
                if told == NOT_FINITE:
                    self._give_up(step, "the loss is not finite", totals)
                if told == STOP_REQUESTED:
                    return None
                loss.backward()
        return totals

    def _count(
        self, totals: Totals, batch: dict[str, Tensor], loss: float, terms: list[float], micro: MicroBatch
    ) -> None:
        counts = self.kind.counts(batch)
        totals.add(loss, terms, counts)
        if self.recipe.run.peak_tflops != 0 and self.operations is not None:
            totals.operations += self.operations(batch)
        totals.passes.append({"loss": loss / max(counts.weight, 1.0), "samples": micro.about})

    def _update(self, step: int, totals: Totals) -> dict[str, Any]:
        """Bring the gradient to the mean over all answer tokens of the step, clip it, and let the optimiser step."""
        sums = torch.tensor(totals.numbers(), dtype=torch.float64, device=self.accelerator.device)
        if self.accelerator.num_processes > 1:
            torch.distributed.all_reduce(sums)
        loss, weight, answers, tokens, samples, operations, waited_s, *terms = sums.tolist()
        settings, optimiser = self.recipe.optimiser, self.train_state.optimiser
        learning = [parameter for group in optimiser.param_groups for parameter in group["params"]]
        gradients = [parameter.grad for parameter in learning if parameter.grad is not None]
        torch._foreach_mul_(gradients, self.accelerator.num_processes / weight)  # engines give means over processes
        norm = torch.nn.utils.clip_grad_norm_(learning, settings.clip)
        norm = (norm.full_tensor() if isinstance(norm, DTensor) else norm).item()
        loss /= weight
        if not math.isfinite(norm) or self.detector.is_diverging(loss):
            self._give_up(
                step, f"the loss is {loss:.4g} after {self.detector.mean:.4g}, the gradient {norm:.4g}", totals
            )
        for group in optimiser.param_groups:
            group["lr"] = rate(step, self.total, group["peak"], settings)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        rates = {f"rate_{group['part']}": group["lr"] for group in optimiser.param_groups}
        return {
            "loss": loss, "grad_norm": norm, **rates,
            **{f"loss_{name}": value / weight for name, value in zip(self.kind.terms, terms, strict=True)},
            "samples_seen": (step + 1) * settings.batch, "epoch": (step + 1) * settings.batch / len(self.samples),
            "samples": samples, "tokens": tokens, "answer_tokens": answers, "operations": operations,
            "data_wait_s": waited_s / self.accelerator.num_processes,
            "replaced": sum("replaced" in one for turn in totals.passes for one in turn["samples"]),
        }  # fmt: skip

    def _state(self, step: int) -> dict[str, Any]:
        """What a checkpoint says beside the tensors."""
        rates = {group["part"]: group["lr"] for group in self.train_state.optimiser.param_groups}
        return {
            "step": step, "total": self.total, "position": step * self.sampler.batch, "rates": rates,
            "seed": self.recipe.run.seed, "random": "made anew for each pass from the seed and its first sample",
            "watch": self.detector.state(), "resumed_from": self.resumed_from,
            "processes": self.accelerator.num_processes, "sharded": self.train_state.sharded,
            "versions": provenance.versions(),
        }  # fmt: skip

    def _agree(self, finite: bool) -> float:
        """The worst that any process has to say, so that all stop at the same place."""
        own = NOT_FINITE if not finite else STOP_REQUESTED if self.signal is not None else CONTINUE
        if self.accelerator.num_processes == 1:
            return own
        told = torch.tensor(own, device=self.accelerator.device)
        torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX)
        return told.item()

    def _give_up(self, step: int, reason: str, totals: Totals) -> None:
        path = dump_bad_batch(self.folder, step, self.accelerator.process_index, reason, totals.passes, totals.last)
        raise Diverged(
            f"step {step + 1} of {self.total}: {reason}; its samples are in {path}. Look at them, or start "
            "another run with lower rates; this one resumes from its last checkpoint and meets the same samples"
        )

    def _gathering(self, last: bool) -> AbstractContextManager:
        """DDP adds up gradients over processes in the last pass only; FSDP2 always, which keeps them divided."""
        quiet = not last and hasattr(self.train_state.loss_module, "no_sync")
        return self.train_state.loss_module.no_sync() if quiet else nullcontext()

    def _precision(self) -> AbstractContextManager:
        return nullcontext() if self.train_state.sharded else self.accelerator.autocast()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """The first SIGINT or SIGTERM asks for a checkpoint, a second one does what it always does."""
        before: dict[int, Any] = {}

        def asked(number: int, _: object) -> None:
            self.signal = number
            signal.signal(number, before[number])

        if threading.current_thread() is threading.main_thread():
            before |= {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
            for number in before:
                signal.signal(number, asked)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1)[0])
