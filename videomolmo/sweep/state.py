"""The state files of a sweep, checked whenever one is read: the folder may come from anybody."""

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from videomolmo.errors import BadInput

COLUMNS = ("cell", "seconds", "commit", "versions", "machine", "notebook", "table_error")  # of the table; ours alone
LARGEST = 2**28  # bytes; a sweep of a million cells has fewer


class _State(BaseModel):
    model_config = ConfigDict(strict=True)


class _Cell(_State):
    name: str
    parameters: dict[str, Any]


class SweepFile(_State):
    """sweep.json: what is to be run."""

    notebook: str
    sha256: str
    varied: list[str]
    repeats: list[str]
    cells: dict[str, _Cell]


class DriverFile(_State):
    """running/driver.json: who works in the folder."""

    token: str
    pid: int
    host: str
    since: str


def _free(parameters: dict[str, Any]) -> dict[str, Any]:
    if taken := parameters.keys() & set(COLUMNS):
        raise ValueError(f"{taken.pop()} is a column of the sweep's own")
    return parameters


class _Ended(_State):
    parameters: Annotated[dict[str, Any], AfterValidator(_free)]
    notebook_sha256: str
    commit: str | None
    versions: dict[str, str]
    machine: str
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class DoneFile(_Ended):
    """done.json of a cell."""

    table: str | None = None


class FailedFile(_Ended):
    """failed.json of a cell."""

    error: str
    traceback: str
    log: str | None = None


def read_state(path: Path, kind: type[BaseModel]) -> dict[str, Any]:
    """The content of a state file.

    Raises:
        BadInput: it cannot be read, is a link or no file, or what stands in it is not of this kind.
    """
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > LARGEST:
            raise ValueError("a link, no file or too large")
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        json.dumps(content, ensure_ascii=False).encode()  # halves of a character could not be written again
        kind.model_validate(content)
        return content
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        why = f"{'.'.join(map(str, first['loc'])) or 'content'}: {first['msg']}"
    except (OSError, ValueError, RecursionError) as error:
        why = getattr(error, "strerror", None) or str(error)
    raise BadInput(f"{path.name} is damaged ({' '.join(why.split()):.200})")
