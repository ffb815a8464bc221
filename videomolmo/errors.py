"""The one error a user is meant to read (what was given, what was expected, what to do), and a wish to stop."""


class Terminated(KeyboardInterrupt):
    """SIGTERM or its like: what runs ends as after Ctrl-C, and the command line exits with 128 + `number`."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class BadInput(ValueError):
    """Input the program refuses, in one line that names the value and the remedy. The command line exits with 2."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows in place of the traceback: IPython asks for it."""
        return [f"{type(self).__name__}: {self}"]


class MissingFile(BadInput):
    """A file that is needed is not there."""


class Unreadable(BadInput):
    """A file, or an entry of one, is there and is not what it should be."""
