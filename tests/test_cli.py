"""The command line: quick help, errors in one line, results.json beside what is printed."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

from lmlab.cli import main


def run(*arguments: object) -> int:
    return main([str(a) for a in arguments])


def test_help_needs_neither_torch_nor_transformers():
    """Issue: `lmlab --help` answers within a second; what takes longer is importing these."""
    code = (
        "import sys; from lmlab.cli import main; status = main(['--help']); "
        "heavy = {'torch', 'transformers', 'matplotlib', 'scipy'} & set(sys.modules); "
        "print(status, sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"
    assert "lmlab tour" in done.stdout


def test_a_mistyped_option_is_refused_without_importing_torch():
    code = (
        "import sys; from lmlab.cli import main\n"
        "print(main(['train', '--store', 'x', '--setps', '3']), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "2 False"
    assert "--steps" in done.stderr


_FIRST_STEP = """
import sys
from lmlab.training.loop import Trainer
def stop(self):
    print(sorted({"matplotlib", "pandas", "scipy.stats", "datasets", "sympy"} & set(sys.modules)))
    sys.exit()
Trainer.update = stop
from lmlab.cli import main
main(sys.argv[1:])
"""


def test_what_draws_and_counts_is_not_imported_before_the_first_step(small_store, tmp_path):
    """Importing these takes seconds. sympy comes with every class of transformers, which imports
    torch._dynamo; it stands in the list to show that what is imported is seen. Where scikit-learn
    is installed (the extra `eval` brings it), transformers imports that too, and with it others."""
    command = [
        sys.executable, "-c", _FIRST_STEP, "train", "--store", str(small_store.path), "--layers",
        "1", "--width", "16", "--heads", "1", "--context", "8", "--steps", "2", "--out",
        str(tmp_path / "run"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    of_sklearn = ["pandas", "scipy.stats"] if find_spec("sklearn") else []
    imported = ast.literal_eval(done.stdout.splitlines()[-1])
    assert "sympy" in imported
    assert set(imported) <= {"sympy", *of_sklearn}


@pytest.mark.parametrize("arguments", [["--help"], ["prepare", "--help"]])
def test_output_that_nobody_reads_is_no_error(arguments):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "lmlab", *arguments]
    ended = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, b"")


def test_a_command_without_an_output_is_no_error(tmp_path):
    """`>&-`: Python has no sys.stdout then."""
    command = f"{sys.executable} -m lmlab plan --effect 0.2 --seed-sd 0.3 --out {tmp_path} >&-"
    ended = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, check=False)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert (tmp_path / "results.json").is_file()


def test_study_alone_lists_the_studies(capsys):
    for arguments in (["study"], ["study", "--help"]):
        assert main(arguments) == 0
        assert "arrow, babylm, decomposition, encoding, headless, towers" in capsys.readouterr().out


def test_an_unknown_command_names_the_nearest(capsys):
    assert run("trian") == 2
    assert "did you mean 'lmlab train'" in capsys.readouterr().err
    assert run("study", "arow") == 2
    assert "lmlab study arrow" in capsys.readouterr().err


def test_users_mistakes_are_one_line_and_status_2(tmp_path, capsys):
    assert run("train", "--store", tmp_path / "nothing") == 2
    error = capsys.readouterr().err
    assert error.startswith("lmlab train: ")
    assert "lmlab prepare" in error
    assert "Traceback" not in error
    assert len(error.strip().splitlines()) == 1


def test_an_unknown_key_in_a_file_names_the_nearest(tmp_path, capsys):
    (tmp_path / "run.toml").write_text('store = "x"\n[optimizer]\nlearning_rat = 0.1\n')
    assert run("train", "--config", tmp_path / "run.toml") == 2
    error = capsys.readouterr().err
    assert "run.toml" in error
    assert "'learning_rat'; did you mean 'learning_rate'" in error


@pytest.fixture(scope="module")
def trained(tmp_path_factory, text_folder):
    """The README's steps, tiny: a store, a forward and a backward run."""
    lab = tmp_path_factory.mktemp("lab")
    store = lab / "store"
    split = ("--split.validation", 0.2, "--split.test", 0.2)
    vocabulary = ("--tokenizer.vocabulary", 300)
    assert run("prepare", "--text", text_folder, "--out", store, *vocabulary, *split) == 0
    (lab / "run.toml").write_text(
        "steps = 4\ncontext = 16\nbatch = 2\nthreads = 1\n[model]\nlayers = 1\nheads = 2\n"
        "width = 16\n"
    )
    for order in ("forward", "backward"):
        run_options = ("--store", store, "--out", lab / order, "--order", order)
        assert run("train", "--config", lab / "run.toml", *run_options) == 0
    return lab


def test_prepare_again_reuses_and_other_inputs_are_refused(trained, text_folder, capsys):
    same = ("--tokenizer.vocabulary", 300, "--split.validation", 0.2, "--split.test", 0.2)
    options = ("prepare", "--text", text_folder, "--out", trained / "store")
    assert run(*options, *same) == 0
    assert "reusing" in capsys.readouterr().err
    assert run(*options, "--tokenizer.vocabulary", 301) == 2
    assert "different: split, tokenizer" in capsys.readouterr().err


def test_score_prints_and_writes_the_same(trained, capsys):
    out = trained / "score"
    model, store = trained / "forward", trained / "store"
    assert run("score", "--model", model, "--store", store, "--out", out) == 0
    printed = capsys.readouterr().out
    results = json.loads((out / "results.json").read_text())
    assert f"{results['nats_per_token']:.5f}" in printed
    assert str(out / "results.json") in printed
    assert results["options"]["split"] == "validation"
    assert results["bits_per_byte"] > 0


def test_arrow_of_two_models_and_a_wrong_pair(trained, capsys):
    store, out = trained / "store", trained / "pair"
    pair = ("--forward", trained / "forward", "--backward", trained / "backward")
    assert run("arrow", *pair, "--store", store, "--out", out) == 0
    results = json.loads((out / "results.json").read_text())
    arrow = results["comparison"]["arrow"]
    assert arrow["basis"] in ("text only", "none")
    differences = [bin["arrow"]["difference"][0] for bin in results["comparison"]["by_position"]]
    assert sum(differences) == pytest.approx(arrow["difference"][0], rel=1e-9)
    assert results["backward"]["bits_per_byte"] > 0
    assert "bits per byte" in capsys.readouterr().out
    assert (out / "report.html").read_text().count("<figure>") >= 1
    words = ("arrow", trained / "forward", trained / "backward", "--store", store)
    assert run(*words, "--out", trained / "words") == 0
    again = json.loads((trained / "words" / "results.json").read_text())
    assert again["comparison"] == results["comparison"]
    assert run(*words[:3], "third", *words[3:]) == 2
    assert "'third': no option takes this word" in capsys.readouterr().err
    other = ("--config", trained / "run.toml", "--store", store, "--order", "backward")
    assert run("train", *other, "--seed", 1, "--out", trained / "other") == 0
    pair = ("--forward", trained / "forward", "--backward", trained / "other")
    assert run("arrow", *pair, "--store", store) == 2
    assert "differ in more than direction (seed)" in capsys.readouterr().err
    # when a run is saved changes nothing of it
    saved = trained / "saved"
    assert run("train", *other, "--checkpoints.logarithmic", "--out", saved) == 0
    pair = ("--forward", trained / "forward", "--backward", saved)
    assert run("arrow", *pair, "--store", store) == 0
    pair = ("--forward", trained / "backward", "--backward", trained / "forward")
    assert run("arrow", *pair, "--store", store) == 2
    assert "give a forward model, then a backward one" in capsys.readouterr().err


def test_sample_ends_with_the_prompt_for_a_backward_model(trained, capsys):
    options = ("--prompt", "the end.", "--tokens", 5, "--out", trained / "sample")
    assert run("sample", "--model", trained / "backward", *options) == 0
    results = json.loads((trained / "sample" / "results.json").read_text())
    assert results["texts"][0].endswith("the end.")
    assert capsys.readouterr().out.startswith(results["texts"][0] + "\n\n")
    assert "the end.</span>" in (trained / "sample" / "report.html").read_text()


def test_export_writes_a_folder_and_not_twice(trained, capsys):
    assert run("export", trained / "backward", "--out", trained / "exported") == 0
    assert (trained / "exported" / "model.safetensors").exists()
    assert f"model: {trained / 'exported'}" in capsys.readouterr().out
    assert run("export", trained / "backward", "--out", trained / "exported") == 2
    assert "exists" in capsys.readouterr().err
