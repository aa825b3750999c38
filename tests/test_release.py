"""What a release says of itself, in several files, is one thing."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import lmlab
from lower_bounds import lower_bounds

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([\w./-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))


def test_one_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == PROJECT["version"] == lmlab.__version__
    assert f"## {lmlab.__version__}" in (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert citation["license"] == PROJECT["license"]
    papers = {re.search(r"arXiv:([\d.]+)", paper["notes"])[1] for paper in citation["references"]}  # pyright: ignore[reportOptionalSubscript]
    assert len(papers) == 5


def test_constraints_are_within_what_pyproject_allows():
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    pinned = {canonicalize_name(name): version for name, version in pinned.items()}
    for text in [*PROJECT["dependencies"], *(d for each in EXTRAS.values() for d in each)]:
        asked = Requirement(text)
        version = pinned[canonicalize_name(asked.name)]
        assert asked.specifier.contains(version), f"{text}: constraints.txt has {version}"


def test_every_dependency_has_a_lower_bound():
    bounds = lower_bounds(["eval", "gguf", "slurm", "track"])
    assert all(re.fullmatch(r"[\w-]+==[\d.]+", each) for each in bounds), bounds
    # what has tests of its own is in `dev`, with the same bound
    for extra in ("eval", "gguf", "slurm", "track"):
        assert set(EXTRAS[extra]) <= set(EXTRAS["dev"])


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_call_targets_that_are_there(path):
    jobs: dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))["jobs"]
    for job in jobs.values():
        matrix = job.get("strategy", {}).get("matrix", {})
        for python in matrix.get("python", ()):
            assert tuple(map(int, python.split("."))) >= (3, 11)
        commands = [step["run"] for step in job["steps"] if "run" in step]
        for command in commands:
            for target in re.findall(r"make (\S.*)", command):
                names = matrix["target"] if "matrix.target" in target else [target]
                assert set(names) <= TARGETS, command


def test_the_image_runs_targets_that_are_there():
    image = (ROOT / "Dockerfile").read_text("utf-8")
    named = re.findall(r"^RUN make (\S+)$", image, re.MULTILINE)
    named += re.findall(r'^CMD \["make", "(\S+)"\]$', image, re.MULTILINE)
    assert len(named) == 2
    assert set(named) <= TARGETS
