"""Rows of the Hub's sets, as their authors publish them, against what LLM-Adapters' files say of the same rows."""

import pytest

from modules.benchmarks.instruct import hub
from modules.benchmarks.instruct.known_sets import KNOWN_SETS
from modules.benchmarks.instruct.sources import HubSource, examples_in
from modules.benchmarks.instruct.tasks import ARITHMETIC, COMMONSENSE, TASKS
from variants.errors import UserError

SCIENCE = {"text": ["a marsh", "a tundra", "the plains", "a desert"], "label": ["A", "B", "C", "D"]}
ROWS = {
    "boolq": (
        {"question": "do iran and afghanistan speak the same language", "passage": "Persian ...", "answer": True},
        "Please answer the following question with true or false, question: do iran and afghanistan speak the same "
        "language?\n\nAnswer format: true/false",
        "true",
    ),
    "piqa": (
        {"goal": "dresser", "sol1": "replace drawer with bobby pin ", "sol2": "finish, woodgrain with  bobby pin ",
         "label": 1},
        "Please choose the correct solution to the question: dresser\n\nSolution1: replace drawer with bobby pin \n\n"
        "Solution2: finish, woodgrain with  bobby pin \n\nAnswer format: solution1/solution2",
        "solution2",
    ),
    "siqa": (
        {"context": "Tracy didn't go home that evening and resisted Riley's attacks.",
         "question": "What does Tracy need to do before this?", "answerA": "make a new plan",
         "answerB": "Go home and see Riley", "answerC": "Find somewhere to go", "label": "3"},
        "Please choose the correct answer to the question: Tracy didn't go home that evening and resisted Riley's "
        "attacks. What does Tracy need to do before this?\n\nAnswer1: make a new plan Answer2: Go home and see Riley "
        "Answer3: Find somewhere to go\n\nAnswer format: answer1/answer2/answer3",
        "answer3",
    ),
    "hellaswag": (
        {"activity_label": "Travel", "ctx": "[header] How to become an au pair", "endings": ["a", "b.", "c", "d"],
         "label": "1"},
        "Please choose the correct ending to complete the given sentence: Travel: [header] How to become an au pair\n\n"
        "Ending1: a Ending2: b. Ending3: c Ending4: d\n\nAnswer format: ending1/ending2/ending3/ending4",
        "ending2",
    ),
    "winogrande": (
        {"sentence": "Sarah was a much better surgeon than Maria so _ always got the easier cases.", "option1": "Sarah",
         "option2": "Maria", "answer": "2"},
        "Please choose the correct answer to fill in the blank to complete the given sentence: Sarah was a much better "
        "surgeon than Maria so _ always got the easier cases.\n\nOption1: Sarah Option2: Maria Answer format: "
        "option1/option2",
        "option2",
    ),
    "arc_e": (
        {"question": "Which?", "choices": {"text": ["x", "y", "z"], "label": ["1", "2", "3"]}, "answerKey": "3"},
        "Please choose the correct answer to the question: Which?\n\nAnswer1: x Answer2: y Answer3: z\n\nAnswer "
        "format: answer1/answer2/answer3",
        "answer3",
    ),
    "obqa": (
        {"question_stem": "There is most likely going to be fog around:", "choices": SCIENCE, "answerKey": "A"},
        "Please choose the correct answer to the question: There is most likely going to be fog around:\n\nAnswer1: a "
        "marsh Answer2: a tundra Answer3: the plains Answer4: a desert\n\nAnswer format: "
        "answer1/answer2/answer3/answer4",
        "answer1",
    ),
    "multiarith": ({"question": " How many?", "final_ans": "15"}, " How many?", "15"),
    "svamp": ({"Body": "He had 32 crackers.", "Question": "How many?", "Answer": "8.0"},
              "He had 32 crackers. How many?", "8.0"),
    "aqua": (
        {"question": "What is the perimeter?", "options": ["A)60 m", "B)61 m"], "rationale": "...", "correct": "B"},
        "What is the perimeter? Answer Choices: (A) 60 m (B) 61 m",
        "B",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_what_llm_adapters_made_of_it(name):
    row, instruction, answer = ROWS[name]
    found = KNOWN_SETS[name].written(row)
    assert (found["instruction"], found["answer"]) == (instruction, answer) and answer in found["output"]


def test_every_known_set_is_a_part_of_a_task():
    parts = {part.name for task in TASKS.values() for part in (*task.parts, *([task.union] if task.union else []))}
    assert set(KNOWN_SETS) <= parts and set(ROWS) == {n for n, s in KNOWN_SETS.items() if s.written} - {"arc_c"}


def test_the_hubs_sets_are_read_split_by_split(monkeypatch):
    def loaded(where, revision=None):
        if where == "zwhe99/commonsense_170k":
            return {
                "train": [{"instruction": f"{n}? Answer format: a/b", "output": "a", "answer": "a"} for n in range(9)]
            }
        name = next(name for name, known in KNOWN_SETS.items() if known.where == where)
        row = {"question": "q", "answer": "1 + 1 = 2 #### 2"} if name == "gsm8k" else ROWS.get(name, ROWS["arc_e"])[0]
        return {split: [row] for split in ("train", "validation", "test")}

    monkeypatch.setattr(hub, "load", loaded)
    source = HubSource()
    splits = source.load(COMMONSENSE)
    assert not source.notes["commonsense"] and len(splits["test"]) == 8 and len(splits["train"]) == 8
    assert all(example.answer in example.options for example in examples_in(splits["test"]))
    with pytest.raises(UserError, match="Arithmetic train has no rows"):
        source.load(ARITHMETIC)  # all that is trained on is asked in the test
    assert source.notes["arithmetic"][1].endswith("lacks their test rows: AddSub, SingleEq, MAWPS")


def test_a_set_that_has_changed_on_the_hub_is_one_line(monkeypatch):
    monkeypatch.setattr(hub, "load", lambda where, revision=None: {"validation": [{"other": 1}]})
    with pytest.raises(UserError, match=r"google/boolq \(validation\): row 1 is not as it was published"):
        HubSource().part(COMMONSENSE.parts[0], "test")
    with pytest.raises(UserError, match="has no split 'train'"):
        HubSource().part(COMMONSENSE.parts[0], "train")
