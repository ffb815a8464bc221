"""Batches that are kept lie in one block for each name: one by one, between the work's large tensors, they tore the
heap into pieces that none of these fitted into again, and 2 GB of features took 20 GB of memory."""

import torch
from torch import Tensor


class Shelf:
    """Room for `places` batches of the same names, shapes and kinds; a block takes memory as it is filled."""

    def __init__(self, places: int) -> None:
        self.places = places
        self._blocks: dict[str, Tensor] = {}

    def put(self, place: int, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Copy a batch to a place; returns it as it lies there."""
        for name, value in batch.items():
            if name not in self._blocks:
                self._blocks[name] = torch.empty((self.places, *value.shape), dtype=value.dtype, device=value.device)
            self._blocks[name][place].copy_(value)
        return {name: self._blocks[name][place] for name in batch}
