"""What several tests share: a grounder with random weights, one with shipped ones, and a pointer that never errs."""

# ruff: noqa: E402
from __future__ import annotations

import os
import signal
import sys
import threading

if "PYTEST_XDIST_WORKER" in os.environ:  # several processes share the cores; torch reads this once, when it is imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# Hundreds of processes import this package: compiled once, not in each of them, whatever the machine's habit is.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# Commands under test hear these, also where the tests run under `nohup` or in the background of a script.
if threading.current_thread() is threading.main_thread():
    for number in {signal.SIGINT, getattr(signal, "SIGHUP", signal.SIGINT)}:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import golden
import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from videomolmo.points import Answer, read_points, write_points
from videomolmo.protocols import Pointer, Question
from videomolmo.synth.clips import Clip, generate_clip
from videomolmo.weights.hub import nano_masks, nano_pointing

if TYPE_CHECKING:
    from videomolmo.grounding import VideoGrounder

# The same examples in every run; others with `--hypothesis-profile fuzz --hypothesis-seed N` (`.ci/run` ends so).
# No limit on time in either: it would measure how busy the machine is.
patient = {"deadline": None, "database": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("repeatable", derandomize=True, **patient)
settings.register_profile("fuzz", **patient)
settings.load_profile("repeatable")

CORPUS = [
    f'Point to the {colour} {shape}. <point x="12.5" y="40.6" alt="{colour} {shape}">{colour}</point> There are none.'
    for colour in ("red", "green", "blue")
    for shape in ("circle", "square")
]

LONG = [  # files that take longest, by processor time
    "notebooks", "inspector_browser", "app_browser", "annotation", "full_size", "hostile_models", "workshop", "trainer",
    "training_memory", "sweep", "training", "windows", "inspector_close", "hostile_masks", "cli", "sweep_folders",
    "trainer_processes", "hostile_checkpoints", "videoglamm_golden", "inspector_browser_parts", "hostile_results",
]  # fmt: skip


def pytest_collection_modifyitems(items) -> None:
    """Long files first: each is one worker's (`--dist loadfile`), and while the last one runs the others wait."""
    place = {f"test_{name}": number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONG)))


def pytest_sessionfinish(session) -> None:
    """A worker's worst errors travel to the process that prints the table."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["parity"] = golden.WORST


def pytest_testnodedown(node) -> None:
    for stage, (worst, bound) in node.workeroutput.get("parity", {}).items() if hasattr(node, "workeroutput") else ():
        golden.WORST[stage] = (max(worst, golden.WORST.get(stage, (0.0, 0.0))[0]), bound)


def pytest_terminal_summary(terminalreporter) -> None:
    """The table of worst errors against the published model, where golden data is there."""
    if table := golden.parity_table():
        terminalreporter.section("parity with the published model (float32)")
        terminalreporter.write_line("\n".join(table))


@pytest.fixture(autouse=True, scope="session")
def own_home(tmp_path_factory) -> Iterator[None]:
    """Settings, kernels and data sets of whoever runs the tests change nothing; only caches of libraries are kept."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache"))
        for name in os.environ:
            if name.startswith(("JUPYTER", "JPY_", "XDG_CONFIG", "XDG_DATA", "HF_", "WANDB_")):
                patch.delenv(name)
        for name in ("VIDEOMOLMO_DATA", "IPYTHONDIR", "MPLCONFIGDIR", "MATPLOTLIBRC", "GIT_DIR", "GIT_WORK_TREE"):
            patch.delenv(name, raising=False)
        patch.setenv("HOME", str(home))
        yield


@pytest.fixture(autouse=True)
def own_folder(tmp_path_factory, monkeypatch) -> None:
    """Each test runs in an empty folder: what lies where pytest was started, or in `results/` there, is never seen."""
    monkeypatch.chdir(tmp_path_factory.mktemp("cwd"))


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Sums are the same in every process only if they are split the same way."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    """Both nano models with random weights, in one folder as they would be shipped."""
    import torch

    from videomolmo.lab.nano.recipe import export_masks
    from videomolmo.lab.nano.sam2_stage import initialise
    from videomolmo.masks.sam2 import build_nano
    from videomolmo.model import VideoMolmoConfig, VideoMolmoForConditionalGeneration
    from videomolmo.model.tokenizer import build_nano_tokenizer, save_tokenizer

    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    VideoMolmoForConditionalGeneration(VideoMolmoConfig.nano()).save_pretrained(
        folder / "pointing", dtype=torch.float16
    )
    save_tokenizer(build_nano_tokenizer(CORPUS), str(folder / "pointing"))
    model = build_nano(nano_masks())
    initialise(model)
    export_masks(model.state_dict(), nano_masks() / "config.yaml", folder / "masks", {"seed": 0})
    return folder


@pytest.fixture(scope="session")
def tiny_grounder(tiny_folder):
    """A `VideoGrounder` with random weights that writes at most a few words per key frame."""
    from videomolmo.grounding import VideoGrounder

    grounder = VideoGrounder.from_pretrained(str(tiny_folder / "pointing"), str(tiny_folder / "masks"), device="cpu")
    model = grounder.pointer.model
    model.generate = partial(model.generate, max_new_tokens=6)
    return grounder


@pytest.fixture(scope="session")
def shipped_grounder():
    """The shipped nano models."""
    for folder in (nano_pointing(), nano_masks()):
        if not (folder / "model.safetensors").is_file():
            pytest.skip(f"{folder}/model.safetensors is not there yet: train it with `videomolmo train-nano`")
    from videomolmo.grounding import VideoGrounder

    return VideoGrounder.from_pretrained("nano", "nano", device="cpu")


@pytest.fixture(scope="session")
def clip() -> Clip:
    """Twelve small frames with at least two objects that can be seen on every key frame (every fifth)."""
    for seed in range(10_000_000, 10_000_100):
        made = generate_clip(seed, frames=12, height=64, width=80, square=False)
        if len(seen_throughout(made)) >= 2:
            return made
    raise AssertionError("no clip with two objects that stay")


def seen_throughout(clip: Clip) -> list[int]:
    """Objects of a clip that may be asked about on every frame."""
    return [n for n in range(len(clip.scene.objects)) if all(things[n].seen for things in clip.object_facts)]


SBATCH = """#!{python}
import pathlib, subprocess, sys
script = pathlib.Path(sys.argv[1]).read_text()  # is deleted when we return
log = open("{jobs}/log", "a")
job = subprocess.Popen(["bash", "-c", script], start_new_session=True, stdout=log, stderr=log)
pathlib.Path(f"{jobs}/{{job.pid}}.sh").write_text(script)
print("Submitted batch job", job.pid)
"""
SCANCEL = """#!{python}
import os, signal, sys
os.killpg(int(sys.argv[1]), signal.SIGKILL)
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> Iterator[Path]:
    """Slurm's commands, which start jobs as processes of this machine; the folder where each job's script is kept."""
    commands, jobs = tmp_path / "commands", tmp_path / "jobs"
    for folder in (commands, jobs):
        folder.mkdir()
    for name, source in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        (commands / name).write_text(source.format(python=sys.executable, jobs=jobs))
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    yield jobs
    for path in jobs.glob("*.sh"):
        with suppress(ProcessLookupError):  # only what a failing test leaves
            os.killpg(int(path.stem), signal.SIGKILL)


class TruthfulPointer:
    """Writes the true points of a generated clip, and reads them back; else it is as another pointer is."""

    def __init__(self, pointer: Pointer, clip: Clip, objects: list[int], silent: set[int]) -> None:
        self.describe, self.clip, self.objects, self.silent = pointer.describe, clip, objects, silent

    def answers(self, frames: Iterator[np.ndarray], question: Question) -> Iterator[tuple[int, Answer]]:
        for at, frame in enumerate(frames):
            if at % question.every == 0:
                yield at, self._answer(at, *frame.shape[:2])

    def _answer(self, at: int, height: int, width: int) -> Answer:
        things = [self.clip.object_facts[at][n] for n in self.objects]
        shares = [thing.point for thing in things if thing.seen and at not in self.silent]
        points = np.array(shares, np.float32).reshape(-1, 2) * np.array([width, height], np.float32)
        return read_points(write_points(points, "thing", height, width), height, width)


@pytest.fixture
def truthful(tiny_grounder, monkeypatch) -> Callable[..., VideoGrounder]:
    """`truthful(clip, objects=[…], silent={…})`: a grounder that names these objects, and none on silent key frames.

    So do those that commands load from then on.
    """
    from videomolmo.grounding import VideoGrounder

    load = VideoGrounder.from_pretrained

    def make(clip: Clip, objects: list[int] | None = None, silent: set[int] = frozenset()) -> VideoGrounder:
        named = seen_throughout(clip) if objects is None else objects

        def told(grounder: VideoGrounder) -> VideoGrounder:
            pointer = TruthfulPointer(grounder.pointer, clip, named, set(silent))
            return VideoGrounder(pointer, grounder.tracker, weights=grounder.weights, loaded=grounder.loaded)

        monkeypatch.setattr(VideoGrounder, "from_pretrained", lambda *args, **options: told(load(*args, **options)))
        return told(tiny_grounder)

    return make
