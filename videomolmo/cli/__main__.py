"""`python -m videomolmo.cli` is `videomolmo`."""

import sys

from videomolmo.cli import main

if __name__ == "__main__":
    sys.exit(main())
