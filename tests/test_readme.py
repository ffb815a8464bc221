"""The README's commands are real: they parse, name what exists, and CI runs the second one."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from videomolmo.cli import _parser

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands(name: str) -> list[str]:
    block = re.search(rf"<!-- {name} -->\n```bash\n(.+?)\n```", README, re.S)
    assert block, f"README.md has no command after <!-- {name} -->"
    return [part.strip() for part in block.group(1).split("&&")]


def test_the_main_job_is_a_command_of_the_package():
    last = shlex.split(commands("run")[-1])
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert last[0] in scripts
    assert _parser().parse_args(last[1:]).run


def test_ci_runs_the_test_command():
    assert commands("test")[-1] == "pytest"
    assert "<!-- test -->" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#:]+)\)", README))
def test_links_lead_somewhere(target):
    assert (ROOT / target).exists(), f"README.md links to {target}, which does not exist"
