"""The README's commands are real: they parse, name what exists, and CI runs the second one."""

import json
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from videomolmo.cli import app

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
    name, *arguments = last[1:]
    assert get_command(app).commands[name].make_context(name, arguments).command.callback


def test_the_steps_of_the_docker_images_are_the_main_job():
    """So that CI runs them without Docker: a fresh environment and the tests are the second command of the README."""
    stages = (ROOT / ".ci" / "Dockerfile").read_text(encoding="utf-8").split("\nFROM ")[1:]
    assert [stage.split(" AS ")[1].split()[0] for stage in stages] == ["base", "gpu", "cpu"]
    for stage in stages[1:]:
        (step,) = re.findall(r"^RUN ((?:.*\\\n)*.*)", stage, re.M)
        assert [part.strip() for part in step.replace("\\\n", " ").split("&&")] == commands("run")
    assert commands("test")[:-1] == [part.replace("-e .", "-e '.[test]'") for part in commands("run")[:-1]]


def test_binder_finds_its_environment():
    """It takes a Dockerfile in its place; it copies the repository first where pip names local files, as here."""
    assert not [name for name in ("Dockerfile", "binder", ".binder") if (ROOT / name).exists()]
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert set(environment) == {"name", "channels", "dependencies"}
    *conda, pip = environment["dependencies"]
    assert [one.split("=")[0] for one in conda] == ["python", "pip", "ffmpeg"]
    assert "-e .[test]" in pip["pip"]
    for option in (one.split() for one in pip["pip"] if one.startswith("-c ")):
        assert (ROOT / option[1]).is_file()


@pytest.mark.skipif(not shutil.which("hadolint"), reason="hadolint is not installed")
def test_the_dockerfile_is_clean():
    done = subprocess.run(["hadolint", str(ROOT / ".ci" / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stdout, done.stdout


def test_ci_runs_the_test_command():
    assert commands("test")[-1] == "pytest"
    assert "<!-- test -->" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#:]+)\)", README))
def test_links_lead_somewhere(target):
    assert (ROOT / target).exists(), f"README.md links to {target}, which does not exist"


def rows_of_readme() -> dict[str, float]:
    """The table of nano's figures: what was measured, and the value."""
    table = (ROOT / "data/nano/README.md").read_text(encoding="utf-8")
    return {what: float(value) for what, value in re.findall(r"^\| ([^|]+?) \| [^|]+ \| ([\d.]+) \|", table, re.M)}


def test_the_card_of_the_pointing_model_says_what_the_readme_says():
    card, known = (ROOT / "data/nano/pointing/README.md").read_text(encoding="utf-8"), rows_of_readme()
    measured = " ".join(re.search(r"\*\*Measured\*\*(.+?)\n- ", card, re.S)[1].split())
    for what in ("appearance", "colour", "absent object", "all", "motion", "absent motion"):
        assert re.search(rf"(?<!absent ){what} (\.\d+)", measured)[1] == f"{known[what]:.3f}"[1:], what
    assert float(re.search(r"J&F\s+(\.\d+)", measured)[1]) == pytest.approx(known["pipeline, k = 5, `iou`"], abs=0.005)


def test_the_card_of_nano_sam_says_what_the_readme_says():
    card, known = (ROOT / "data/nano/masks/README.md").read_text(encoding="utf-8"), rows_of_readme()
    for name in ("clicked frame", "tracked over 20 frames"):
        assert f"{name} J {known[f'nano SAM 2, {name}']:.2f}".replace(" 0.", " .") in " ".join(card.split())


@pytest.mark.parametrize("name", ["pointing", "pointing_96", "masks"])
def test_cards_name_the_commit_that_the_weights_are_of(name):
    folder = ROOT / "data/nano" / name
    commit = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))["commit"]
    assert f"**Commit**: {commit}" in (folder / "README.md").read_text(encoding="utf-8")
