"""A run as a repository of the Hub: a revision for each of its checkpoints by words seen.

    OUT/chck_1M/, chck_2M/, ...    an exported model each (`lmlab.lm.export`)
    OUT/main/                      the last checkpoint
    OUT/revisions.json             repository, run, and of each revision folder, step, words, files

Notable:
- Writing the folders and uploading them are two steps, and only the second one needs the Hub. Asked
  again, folders of the same run that are there serve as they are; other ones are refused.
- The upload is huggingface_hub's own (`HfApi`): `main` comes last, so that a repository with a
  `main` is whole. What is there already is not sent again, so the same command goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmlab.config import to_mapping
from lmlab.durable import file_sha256, write_json
from lmlab.errors import UserError
from lmlab.lm.card import Scores
from lmlab.lm.export import export_model
from lmlab.lm.language_model import open_model
from lmlab.progress import say
from lmlab.run_folders.checkpoint import read_json_file
from lmlab.run_folders.rundir import stored_identity
from lmlab.run_folders.words import (
    MAIN,
    WordCheckpoint,
    run_and_split,
    word_checkpoints,
    word_marks,
)

LIST = "revisions.json"


@dataclass(frozen=True)
class Revision:
    """An exported checkpoint, as a revision of a repository."""

    revision: str
    """Its name: chck_1M, or main."""
    folder: Path
    step: int
    words: int
    """Seen by then."""
    sizes: Mapping[str, int]
    """Bytes of each file that is uploaded."""

    @property
    def bytes(self) -> int:
        return sum(self.sizes.values())


@dataclass(frozen=True)
class Publication:
    """What `lmlab publish` wrote, and whether it was uploaded."""

    repo: str
    out: Path
    revisions: tuple[Revision, ...]
    uploaded: bool = False


def check_repo(repo: str) -> None:
    """`UserError` for what is no name of a repository of a user or organisation."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(f"`repo` {repo}: no name of a repository: {error}") from error
    if "/" not in repo:
        raise UserError(f"`repo` {repo}: name its owner too, as in USER/{repo}")


def write_revisions(
    run: Path, repo: str, out: Path, *, scores: Sequence[Scores] = ()
) -> Publication:
    """Exports the checkpoints of a finished run by words seen, and the last as `main`, whose model
    card has `scores`.

    Raises `UserError` for a name that the Hub does not take, a run that is not finished or of
    unknown words, folders below `out` that are not of this run, and as `export_model`.
    """
    check_repo(repo)
    checkpoints = word_checkpoints(run)
    if not checkpoints or checkpoints[-1].name != MAIN:
        raise UserError(f"{run} is not finished; publish it when it is")
    there = {checkpoint.name for checkpoint in checkpoints}
    if missing := [m.name for m in word_marks(*run_and_split(run)) if m.name not in there]:
        say(f"{run}: {', '.join(missing)} left out: these checkpoints are not there any more")
    identity = stored_identity(run)
    revisions = tuple(
        _revision(run, repo, out, checkpoint, identity, scores if checkpoint.name == MAIN else ())
        for checkpoint in checkpoints
    )
    listed = [
        {
            **to_mapping(revision),
            "folder": revision.revision,
            "sha256": {name: file_sha256(revision.folder / name) for name in revision.sizes},
        }
        for revision in revisions
    ]
    write_json(out / LIST, {"repo": repo, "run": identity, "revisions": listed})
    return Publication(repo, out, revisions)


def _revision(
    run: Path,
    repo: str,
    out: Path,
    checkpoint: WordCheckpoint,
    identity: str,
    scores: Sequence[Scores],
) -> Revision:
    folder = out / checkpoint.name
    if folder.exists():
        record: dict[str, Any] = {}
        if (folder / "lmlab.json").is_file():
            record = read_json_file(folder / "lmlab.json")
        held = record.get("run"), record.get("step"), record.get("published_as")
        name = _name(repo, checkpoint.name)
        if held != (identity, checkpoint.step, name):
            raise UserError(
                f"{folder} holds something else than step {checkpoint.step:,} of {run} for {name}; "
                "give another `out`, or remove it"
            )
        if scores:
            raise UserError(
                f"{folder} was written before: to give it `scores`, remove it, or give another "
                "`out`"
            )
    else:
        # the last one by its run, which is what its scores name
        lm = open_model(run if checkpoint.name == MAIN else checkpoint.path)
        export_model(lm, folder, scores=scores, published_as=_name(repo, checkpoint.name))
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    return Revision(checkpoint.name, folder, checkpoint.step, checkpoint.words, sizes)


def _name(repo: str, revision: str) -> str:
    """By which `lmlab.load` opens it."""
    return repo if revision == MAIN else f"{repo}@{revision}"


def upload(publication: Publication) -> Publication:
    """Uploads the folders, each as its revision; the repository is created if it is not there.

    `UserError` with what the Hub answers: no login, no permission, no network.
    """
    from huggingface_hub import HfApi

    api, repo = HfApi(), publication.repo
    try:
        api.create_repo(repo, exist_ok=True)
        for revision in publication.revisions:
            name = revision.revision
            say(f"uploading {name} ({revision.bytes / 1e6:,.1f} MB)")
            if name != MAIN:
                api.create_branch(repo, branch=name, exist_ok=True)
            api.upload_folder(
                repo_id=repo,
                folder_path=revision.folder,
                revision=name,
                commit_message=f"Step {revision.step:,}, {revision.words:,} words seen",
                # a branch begins as a copy of what `main` holds then
                delete_patterns=None if name == MAIN else "*",
            )
    except Exception as error:  # of its HTTP library, which is not always the same one
        raise UserError(
            f"{repo}: the upload stopped: {error}. Log in with `hf auth login` if that is it; the "
            "same command goes on"
        ) from error
    return Publication(repo, publication.out, publication.revisions, uploaded=True)
