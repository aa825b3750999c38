"""`lmlab publish`: a run as the revisions of a repository, with an HfApi that writes down calls."""

from __future__ import annotations

import hashlib
import json
import shutil

import huggingface_hub
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import lmlab
from helpers import tiny_training, tree
from lmlab.cli import main
from lmlab.config.training import CheckpointConfig
from lmlab.errors import UserError
from lmlab.run_folders.checkpoint import checkpoint_folder
from lmlab.run_folders.words import word_checkpoints
from lmlab.training.loop import train

MARKS = (1, 20, 40)


@pytest.fixture(scope="module")
def run(text_store, tmp_path_factory):
    out = tmp_path_factory.mktemp("published") / "run"
    config = tiny_training(text_store, out, checkpoints=CheckpointConfig(every=9, words=MARKS))
    return train(config).path


class Api:
    """Writes down what it is asked, and fails at the call that it is told to fail at."""

    calls: list = []  # noqa: RUF012
    fails_at: str | None = None

    def __getattr__(self, name):
        def call(*arguments, **options):
            self.calls.append((name, *arguments, options))
            if options.get("revision") == self.fails_at is not None:
                raise ConnectionError("no such host")

        return call


@pytest.fixture
def api(monkeypatch):
    monkeypatch.setattr(Api, "calls", [])
    monkeypatch.setattr(Api, "fails_at", None)
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    return Api


def test_a_dry_run_writes_what_an_upload_would_send(run, tmp_path, api, capsys):
    out = tmp_path / "out"
    command = ["publish", str(run), "--repo", "me/tiny", "--out", str(out)]
    assert main(command) == 0
    assert api.calls == []
    expected = word_checkpoints(run)
    assert [c.name for c in expected] == ["chck_1", "chck_20", "chck_40", "main"]
    listed = json.loads((out / "revisions.json").read_text())
    assert listed["repo"] == "me/tiny"
    assert [(r["revision"], r["folder"], r["step"], r["words"]) for r in listed["revisions"]] == [
        (c.name, c.name, c.step, c.words) for c in expected
    ]
    for revision in listed["revisions"]:
        files = tree(out / revision["folder"])
        assert revision["sizes"] == {name: len(data) for name, data in files.items()}
        assert revision["sha256"] == {
            name: hashlib.sha256(data).hexdigest() for name, data in files.items()
        }
    printed = capsys.readouterr().out
    rows = [line.split() for line in printed.splitlines()]
    assert [row[:3] for row in rows[1:5]] == [[c.name, str(c.step), str(c.words)] for c in expected]
    total = sum(len(r["sizes"]) for r in listed["revisions"])
    assert f"nothing was uploaded; with --upload me/tiny would get 4 revisions, {total} files" in (
        printed
    )
    before = tree(out)
    assert main(command) == 0  # what is there serves
    assert tree(out) == before


def test_revisions_are_the_checkpoints_and_say_so(run, tmp_path):
    publication = lmlab.publish(run, "me/tiny", tmp_path / "out")
    ids = torch.tensor([[3, 4, 5, 6]])
    for revision in publication.revisions:
        model = AutoModelForCausalLM.from_pretrained(revision.folder)
        of_checkpoint = AutoModelForCausalLM.from_pretrained(checkpoint_folder(run, revision.step))
        with torch.no_grad():
            assert torch.equal(model(ids).logits, of_checkpoint(ids).logits)
        assert AutoTokenizer.from_pretrained(revision.folder)("a").input_ids
        card = (revision.folder / "README.md").read_text()
        assert f"{revision.words:,} words seen" in card
        named = "me/tiny" if revision.revision == "main" else f"me/tiny@{revision.revision}"
        assert f"# {named}\n" in card
        assert f'lmlab.load("{named}")' in card
        loaded = '"me/tiny"'
        if revision.revision != "main":
            loaded += f', revision="{revision.revision}"'
        assert f"from_pretrained({loaded})" in card


def test_the_upload_is_huggingface_hubs(run, tmp_path, api, capsys):
    out = tmp_path / "out"
    command = ["publish", str(run), "--repo", "me/tiny", "--out", str(out), "--upload"]
    api.fails_at = "chck_20"
    assert main(command) == 2
    assert "me/tiny: the upload stopped: no such host" in capsys.readouterr().err
    assert "main" not in [call[-1].get("revision") for call in api.calls]
    api.fails_at = None
    api.calls.clear()
    assert main(command) == 0
    assert "uploaded to me/tiny: 4 revisions" in capsys.readouterr().out
    created, *rest = api.calls
    assert created == ("create_repo", "me/tiny", {"exist_ok": True})
    names = ["chck_1", "chck_20", "chck_40"]
    branches = [call for call in rest if call[0] == "create_branch"]
    assert branches == [
        ("create_branch", "me/tiny", {"branch": name, "exist_ok": True}) for name in names
    ]
    uploads = [call[-1] for call in rest if call[0] == "upload_folder"]
    assert [(u["repo_id"], u["revision"], u["folder_path"]) for u in uploads] == [
        ("me/tiny", name, out / name) for name in [*names, "main"]
    ]
    # a branch holds its files alone; what else is on main stays
    assert [u["delete_patterns"] for u in uploads] == ["*", "*", "*", None]
    for name in names:  # a branch is there before it is written to
        calls = [call[0] for call in rest if name in call[-1].values()]
        assert calls == ["create_branch", "upload_folder"]


@pytest.mark.parametrize(
    "repo", ["tiny", "me/ti..ny", "me/tiny.git", "me/you/tiny", "me/t y", "-me/tiny", "me/", ""]
)
def test_names_that_the_hub_refuses(run, tmp_path, repo):
    with pytest.raises(UserError, match="`repo`"):
        lmlab.publish(run, repo, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_published(run, tmp_path, text_store, capsys):
    out = tmp_path / "out"
    lmlab.publish(run, "me/tiny", out)
    with pytest.raises(UserError, match=r"chck_1 holds something else than step 1 .* for me/other"):
        lmlab.publish(run, "me/other", out)
    shutil.rmtree(out / "chck_20")  # written again
    assert len(lmlab.publish(run, "me/tiny", out).revisions) == 4
    score = lmlab.score(run, text_store)
    score.save(tmp_path / "scores")
    with pytest.raises(UserError, match="main was written before: to give it `scores`"):
        lmlab.publish(run, "me/tiny", out, scores=[tmp_path / "scores"])
    shutil.rmtree(out / "main")
    lmlab.publish(run, "me/tiny", out, scores=[tmp_path / "scores"])
    assert "### score" in (out / "main" / "README.md").read_text()
    assert "### score" not in (out / "chck_40" / "README.md").read_text()
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    shutil.rmtree(checkpoint_folder(copy, word_checkpoints(run)[1].step))
    capsys.readouterr()
    names = [r.revision for r in lmlab.publish(copy, "me/tiny", tmp_path / "fewer").revisions]
    assert names == ["chck_1", "chck_40", "main"]
    assert "chck_20 left out" in capsys.readouterr().err
    shutil.rmtree(checkpoint_folder(copy, 6))
    with pytest.raises(UserError, match="not finished"):
        lmlab.publish(copy, "me/tiny", tmp_path / "none")
