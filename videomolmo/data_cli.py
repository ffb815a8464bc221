"""`videomolmo data`: which data sets can be read, and whether a download of one is whole."""

from __future__ import annotations

import argparse
import sys


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Register `data list` and `data check`."""
    data = commands.add_parser("data", help="public data sets: which are known, and whether a download is whole")
    actions = data.add_subparsers(required=True, metavar="ACTION")
    actions.add_parser("list", help="data sets that can be read").set_defaults(run=_list)
    check = actions.add_parser(
        "check", help="count a download, open every mask and every frame's header",
        description="Exit code: 0 for a whole download, 1 for a broken one, 2 when there is nothing to check.",
    )  # fmt: skip
    check.add_argument("name", metavar="NAME", help="data set, as `videomolmo data list` shows it")
    check.add_argument("path", nargs="?", metavar="PATH", help="its folder (default: $VIDEOMOLMO_DATA/NAME)")
    check.add_argument("--split", default=None, metavar="SPLIT", help="only this split (default: all that are there)")
    check.set_defaults(run=_check)


def _list(options: argparse.Namespace) -> int:
    from videomolmo.datasets import DATASETS

    width = max(map(len, DATASETS))
    for name, dataset in DATASETS.items():
        splits = "as found on disk" if callable(dataset.splits) else ", ".join(dataset.splits)
        print(f"{name:{width}}  {dataset.title} (splits: {splits})")
    return 0


def _check(options: argparse.Namespace) -> int:
    from videomolmo.datasets.check import check_dataset

    report = check_dataset(options.name, options.path, options.split, progress=sys.stderr.isatty())
    print(report.text())
    return 0 if report.ok else 1
