"""What a sweep will do and what it may cost, from what earlier cells took."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from videomolmo.sweep.grid import Cell, Grid
from videomolmo.sweep.store import DAMAGED, DONE, FAILED, MISSING, Record


@dataclass(frozen=True)
class Plan:
    """Cells by state.

    Attributes:
        cells: of the grid.
        records: of all finished cells, by key.
        to_run: those that this sweep runs.
    """

    cells: tuple[Cell, ...]
    records: Mapping[str, Record]
    to_run: tuple[Cell, ...]

    def state(self, cell: Cell) -> str:
        """ "done", "failed", "damaged" or "missing"."""
        record = self.records.get(cell.key)
        return record.state if record else MISSING

    @property
    def damaged(self) -> dict[str, str]:
        """Folder of a cell → what is wrong with its record."""
        found = (self.records[cell.key] for cell in self.cells if self.state(cell) == DAMAGED)
        return {record.folder.name: record.facts["error"] for record in found}

    def count(self, state: str) -> int:
        """How many cells are in this state."""
        return sum(self.state(cell) == state for cell in self.cells)


def make_plan(grid: Grid, records: Mapping[str, Record], *, retry_failed: bool = False) -> Plan:
    """Cells that nobody ran yet or whose record is damaged, and those that failed if they are wanted again."""
    over = {DONE} if retry_failed else {DONE, FAILED}
    to_run = tuple(cell for cell in grid.cells if cell.key not in records or records[cell.key].state not in over)
    return Plan(grid.cells, records, to_run)


def listing(plan: Plan) -> str:
    """One line for each cell: what happens to it, and its name."""
    keys = {cell.key for cell in plan.to_run}
    lines = []
    for cell in plan.cells:
        record = plan.records.get(cell.key)
        took = f"{record.facts['seconds']:.1f} s" if record and record.state != DAMAGED else ""
        lines.append(f"  {'run' if cell.key in keys else 'skip':4}  {plan.state(cell):7} {took:>10}  {cell.name}")
    return "\n".join(lines)


def estimate(
    plan: Plan, at_once: int | None, told: float | None, noted: float | None, stated: float | None = None
) -> str:
    """What the cells to run may take, and where that number comes from.

    Args:
        at_once: cells at once; None: unknown.
        told: seconds of a cell, from the user; goes before what finished cells took.
        noted: from the notebook's metadata, which speak of its defaults; only where nothing else is known.
        stated: from the grid, which knows its sizes; goes before `noted`.
    """
    count = len(plan.to_run)
    if not count:
        return "nothing to run"
    took = [record.facts["seconds"] for record in plan.records.values() if record.state == DONE]
    if told is not None:
        each, source = told, "as you say"
    elif took:
        each, source = statistics.fmean(took), f"mean of {len(took)} finished"
    elif stated is not None:
        each, source = stated, "seconds_per_run of the grid"
    elif noted is not None:
        each, source = noted, "the notebook's metadata say so of its defaults"
    else:
        return f"{count} cells to run; what they take is not known: finish one first, or give --seconds-per-cell"
    text = f"{count} cells to run × {as_time(each)} ({source}) = {as_time(count * each)} of work"
    if at_once is not None:
        rounds = -(-count // at_once)
        text += f", about {as_time(rounds * each)} with {at_once} at once if they do not slow each other down"
    return text + "; an estimate: settings differ in cost, and the first cells fill the cache for the others"


def as_time(seconds: float) -> str:
    """Seconds as a person would say them.

    Example:
        >>> as_time(7.25), as_time(200), as_time(9000)
        ('7.2 s', '3 min 20 s', '2 h 30 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
