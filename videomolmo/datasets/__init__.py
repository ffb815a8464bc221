"""Uniform readers of public data sets and generated clips: `read_dataset(name, path, split)` gives lazy records."""

from videomolmo.datasets.record import Expression, Record, Records, first_records
from videomolmo.datasets.registry import DATASETS, read_dataset

__all__ = ["DATASETS", "Expression", "Record", "Records", "first_records", "read_dataset"]
