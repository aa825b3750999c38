"""Every published form of a task: what is read, what is asked of the model, and what it scores.

Fixtures are made by hand after the fields of each form. Shapes: N items.
"""

from __future__ import annotations

import gzip
import json
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from lmlab.data.task_items import Task
from lmlab.data.tasks import read_suite, read_task, read_tasks
from lmlab.errors import UserError

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
BOXES = "Box 0 contains the cup, Box 1 contains nothing."

BLIMP = {"sentence_good": "g", "sentence_bad": "b", "UID": "u", "field": "syntax",
         "linguistics_term": "t"}  # fmt: skip
SUPPLEMENT = {"sentence_good": "Is it?", "sentence_bad": "It is?"}
EWOK = {
    "Context1": "The cup is hot.", "Context2": "The cup is cold.", "Target1": "It burns.",
    "Target2": "It chills.", "Domain": "physical", "ContextType": "direct",
    "ContextDiff": "antonym", "TargetDiff": "concept swap",
}  # fmt: skip
COMPS = {"prefix_acceptable": "A robin", "prefix_unacceptable": "A shoe",
         "property_phrase": "can fly."}  # fmt: skip
TRACKING = {"input_prefix": f"{BOXES} Move it from Box 0 to Box 1. Box 1 contains",
            "options": [" the cup.", " nothing.", " the key."], "numops": 1}  # fmt: skip
WUG = {"sentences": "He is full of wugness.\tHe is full of wugity.", "ratio": 0.75}
FILES = {
    "full_eval/blimp_filtered/u.jsonl": [BLIMP, {**BLIMP, "sentence_good": "g2"}],
    "full_eval/supplement_filtered/hypernym.jsonl": [SUPPLEMENT],
    "full_eval/ewok_filtered/physical.jsonl": [EWOK],
    "full_eval/comps/comps_base.jsonl": [COMPS],
    "full_eval/comps/comps_wugs_dist-before.jsonl": [COMPS, COMPS],
    "full_eval/entity_tracking/regular.jsonl": [TRACKING, {**TRACKING, "numops": 0}],
    "full_eval/entity_tracking/ambiref.jsonl": [{**TRACKING, "numops": 2}],
    "full_eval/wug_adj_nominalization/wug_adj_nominalization.jsonl": [WUG],
    "full_eval/wug_past_tense/wug_past_tense.jsonl": [{**WUG, "ratio": "0.5"}],
    "full_eval/glue_filtered/rte.train.jsonl": [{"sentence1": "a", "sentence2": "b", "label": 0}],
    "full_eval/lambada.jsonl": [{"text": "one two"}],
}
TEXTS = {
    "zorro/filler-gap-wh_question_object.txt": "bad one .\ngood one .\n\nbad ?\ngood ?\n",
    "clams/de_simple_agrmt.txt": "True\tdie Autoren sind alt\nFalse\tdie Autoren ist alt\n",
    "zorro/SOURCE.txt": "Repository of pairs, MIT.\n",
    "full_eval/reading/reading_data.csv": "item,word\n",
}


@pytest.fixture
def folder(tmp_path):
    for name, records in FILES.items():
        write(tmp_path / "data" / name, "".join(json.dumps(r) + "\n" for r in records))
    for name, text in TEXTS.items():
        write(tmp_path / "data" / name, text)
    return tmp_path / "data"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


def by_name(tasks) -> dict[str, Task]:
    return {task.name: task for task in tasks}


def test_a_suite_is_known_by_its_fields(folder):
    suite = read_suite(folder)
    assert [(task.name, len(task.items), len({*(task.sets or ())})) for task in suite.tasks] == [
        ("blimp", 2, 1), ("supplement", 1, 1), ("ewok", 1, 1), ("comps", 3, 2),
        ("entity_tracking", 3, 3), ("wug_adj", 1, 0), ("wug_past", 1, 0), ("zorro", 2, 1),
        ("clams", 1, 1),
    ]  # fmt: skip
    assert [Path(file).name for file in suite.others] == [
        "rte.train.jsonl", "lambada.jsonl", "reading_data.csv", "SOURCE.txt"
    ]  # fmt: skip


def test_what_is_asked_of_the_model(folder):
    """By the facts of BabyLM's evaluation: options as contexts and continuations, the right one
    first."""
    asked = {
        name: task.items[0].options for name, task in by_name(read_suite(folder).tasks).items()
    }
    assert asked == {
        "blimp": (("", "g"), ("", "b")),
        "supplement": (("", "Is it?"), ("", "It is?")),
        "ewok": (("The cup is hot.", " It burns."), ("The cup is hot.", " It chills.")),
        "comps": (("A robin", " can fly."), ("A shoe", " can fly.")),
        "entity_tracking": tuple(
            (TRACKING["input_prefix"], option) for option in TRACKING["options"]
        ),
        "wug_adj": (("", "He is full of wugness."), ("", "He is full of wugity.")),
        "wug_past": (("", "He is full of wugness."), ("", "He is full of wugity.")),
        "zorro": (("", "good one ."), ("", "bad one .")),
        "clams": (("", "die Autoren sind alt"), ("", "die Autoren ist alt")),
    }


def test_sets_ids_and_clusters(folder):
    tasks = by_name(read_suite(folder).tasks)
    assert {name: [n for _, n in task.ids] for name, task in tasks.items()} == {
        "blimp": ["u_0", "u_1"],
        "supplement": ["hypernym_0"],
        "ewok": ["physical_0"],
        "comps": ["base_0", "wugs_dist_before_0", "wugs_dist_before_1"],
        "entity_tracking": ["ambiref_2_ops_0", "regular_1_ops_0", "regular_0_ops_0"],
        "wug_adj": ["wug_adj_nominalization_0"],
        "wug_past": ["wug_past_tense_0"],
        "zorro": ["filler-gap-wh_question_object_0", "filler-gap-wh_question_object_1"],
        "clams": ["de_simple_agrmt_0"],
    }
    assert tasks["comps"].units == ("can fly.",) * 3
    assert tasks["entity_tracking"].clusters == (BOXES.rstrip("."),) * 3
    assert tasks["blimp"].units == ("u", "u")
    assert [item.part_name for item in tasks["zorro"].items] == ["filler-gap"] * 2
    # base once, the other file twice; of tracking one file has two numbers of moves, one has one
    assert tasks["comps"].weights.tolist() == [1.5, 0.75, 0.75]
    assert tasks["entity_tracking"].weights.tolist() == [1.5, 0.75, 0.75]


def test_a_source_alone_tells_its_kind(folder, tmp_path):
    (comps,) = read_tasks([str(folder / "full_eval" / "comps")])
    assert (comps.name, comps.available) == ("comps", 3)
    (zorro,) = read_tasks([str(folder / "zorro")])
    assert zorro == read_task("zorro", str(folder / "zorro"))
    packed = tmp_path / "wug_past_tense.jsonl.gz"
    packed.write_bytes(gzip.compress(json.dumps(WUG).encode()))
    (wug,) = read_tasks([str(packed)])
    assert wug.name == "wug_past"
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for file in sorted(folder.rglob("*.*")):
            archive.write(file, file.relative_to(folder))
    (folder / "a.zip").write_bytes((tmp_path / "all.zip").read_bytes())
    assert {task.name for task in read_tasks([str(tmp_path / "all.zip")])} == {
        "blimp", "supplement", "ewok", "comps", "entity_tracking", "wug_adj", "wug_past", "zorro",
        "clams",
    }  # fmt: skip
    with pytest.raises(UserError, match=r"set 'u' of blimp is in .*a\.zip/full_eval.*and in"):
        read_suite(folder)


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("ewok", json.dumps({**EWOK, "Target2": " "}), r"line 1: 'Target2' is empty"),
        ("ewok", json.dumps({"Context1": "a"}), r"line 1: no key 'Context2'"),
        ("comps", json.dumps(COMPS) + "\n" + json.dumps({**COMPS, "property_phrase": 1}),
         r"line 2: 'property_phrase' holds int"),
        ("entity_tracking", json.dumps({**TRACKING, "numops": "1"}), r"'numops' is '1'"),
        ("entity_tracking", json.dumps({**TRACKING, "options": [" a"]}),
         r"'options' has to be a list of at least two"),
        ("wug_adj", json.dumps({**WUG, "sentences": "one"}), r"'sentences' has one sentence only"),
        ("wug_adj", json.dumps({**WUG, "ratio": 75}), r"'ratio' is 75; .* 0 to 1"),
        ("wug_adj", json.dumps({**WUG, "ratio": None}), r"'ratio' is None"),
        ("supplement", json.dumps({"sentence_good": "a"}), r"line 1: no key 'sentence_bad'"),
        ("zorro", "bad .\ngood .\nbad .\n", r"line 3: a sentence without its pair"),
        ("zorro", "bad .\ngood\n", r"line 2: a sentence of Zorro ends in a blank and a mark"),
        ("clams", "True\ta\nTrue\tb\n", r"line 2: .*then one False"),
        ("clams", "True\ta\nFalse b\n", r"line 2: 'False b'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_line(tmp_path, kind, text, message):
    path = write(tmp_path / ("items.txt" if kind in ("zorro", "clams") else "items.jsonl"), text)
    with pytest.raises(UserError, match=message) as caught:
        read_task(kind, str(path))
    assert str(path) in str(caught.value)


def test_a_limit_is_of_each_set(folder):
    task = read_task("comps", str(folder / "full_eval" / "comps"), limit=1)
    assert Counter(task.sets) == {"base": 1, "wugs_dist_before": 1}
    assert task.available == 3


@pytest.mark.skipif(not (SHARED / "zorro").is_dir(), reason="Zorro is not on this machine")
def test_the_real_zorro_has_its_unacceptable_sentence_first():
    """Of the paradigms whose rule can be said in a line, all 2,000 pairs of each."""
    (task,) = read_suite(SHARED / "zorro").tasks
    assert Counter(Counter(task.sets).values()) == {2000: 23}
    rules = {
        "npi_licensing-only_npi_licensor": lambda s: s.startswith("only "),
        "quantifiers-superlative": lambda s: "more than" in s or "fewer than" in s,
        "case-subjective_pronoun": lambda s: s.split()[0] in ("i", "he", "she", "we", "they"),
        "filler-gap-wh_question_subject": lambda s: " that " in s and " who " not in s,
        "agreement_subject_verb-across_prepositional_phrase": lambda s: (
            (s.split()[1].endswith("s") or s.split()[1] in ("children", "people", "wolves", "feet"))
            == bool({"are", "were"} & {*s.split()})
        ),
    }
    held = {
        name: np.array(
            [[rule(text) for _, text in i.options] for i in task.items if i.set_name == name]
        )
        for name, rule in rules.items()
    }
    for name, of_N in held.items():
        assert (of_N[:, 0].all(), of_N[:, 1].any()) == (True, False), name


@pytest.mark.skipif(not (SHARED / "clams").is_dir(), reason="CLAMS is not on this machine")
def test_the_real_clams():
    (task,) = read_suite(SHARED / "clams").tasks
    assert {item.part_name for item in task.items} == {"de", "fr"}
    assert len({*(task.sets or ())}) == 6
    assert all(good != bad for (_, good), (_, bad) in (item.options for item in task.items))
    assert task.items[-1].options[0] == ("", "les consultants sont jeunes et sont jeunes")
