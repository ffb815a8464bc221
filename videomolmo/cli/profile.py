"""What `--profile` does: times the parts of the models, prints a table of stages, and writes a trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from videomolmo.errors import BadInput

if TYPE_CHECKING:
    from videomolmo.grounding import VideoGrounder

Trace = Annotated[
    Path | None, Option("--profile", parser=Path, metavar="FILE", help="Time all stages; write a trace for Perfetto.")
]


def check_trace(path: Path | None) -> None:
    """Nothing where no trace is asked for, or nothing has its name.

    Raises:
        BadInput: a file or folder has.
    """
    if path is not None and path.exists():
        raise BadInput(f"--profile {path}: exists, expected a new file for the trace; give another name or remove it")


@contextmanager
def profiled(grounder: VideoGrounder, trace: Path | None) -> Iterator[None]:
    """Within it all runs of a grounder are timed; at its end a table is printed and `trace` written; None: not at all.

    On a GPU each stage waits until its work is done, so that the whole takes longer than without.

    Raises:
        BadInput: the trace exists meanwhile.
        OSError: it cannot be written.
    """
    if trace is None:
        yield
        return
    import torch

    from videomolmo.io.files import atomic_file
    from videomolmo.io.timing import Profile

    profile = grounder.clock = Profile(torch.cuda.synchronize if torch.cuda.is_initialized() else lambda: None)
    models = (grounder.pointer, grounder.tracker, grounder.segmenter)
    stages = [stage for model in models if hasattr(model, "stages") for stage in model.stages()]
    try:
        with profile.timing(stages):
            yield
    finally:
        grounder.clock = None
    print(profile.table())
    with atomic_file(trace, replace=False) as path:
        profile.write_trace(path)
    print(f"trace written to {trace}; open it at https://ui.perfetto.dev, or in chrome://tracing")
