"""Logits in words, and texts of any number and length."""

from types import SimpleNamespace

import pytest
import torch

from modules import load_run, predict
from modules.benchmarks.prediction import told

TWO = {0: "no", 1: "yes"}


def test_logits_in_words():
    logits = torch.tensor([[2.0, 1.0], [-1.0, 3.0]])
    kinds = {
        kind: told(logits, SimpleNamespace(problem_type=kind, id2label=TWO))
        for kind in ("single_label_classification", "multi_label_classification", "regression")
    }
    first, second = kinds["single_label_classification"]
    assert (first["label"], second["label"]) == ("no", "yes")
    assert first["probability"] == pytest.approx(1 / (1 + 2.718281828**-1))
    assert kinds["regression"] == [{"score": 2.0}, {"score": -1.0}]
    first, second = kinds["multi_label_classification"]
    assert (first["label"], second["label"]) == ("no|yes", "yes")
    assert second["probability of no"] == pytest.approx(1 / (1 + 2.718281828))


def test_rows_come_in_their_order_whatever_their_lengths_and_number(runs):
    """Each alone says what it says among others; long ones are cut as in training."""
    rows = [("1 " * (k % 7), "number " * (40 - k)) for k in range(40)]
    counted: list[int] = []
    many = predict(runs["mnli"], rows, done=counted.append)
    assert sum(counted) == 40 and len(counted) == 2
    model, tokenizer = load_run(runs["mnli"])
    for k in (0, 13, 39):
        inputs = tokenizer(*rows[k], truncation=True, max_length=tokenizer.model_max_length, return_tensors="pt")
        with torch.no_grad():
            shares = model(**inputs).logits.softmax(-1)[0]
        assert many["probability"][k] == pytest.approx(shares.max().item(), abs=1e-5)
        assert many["label"][k] == model.config.id2label[int(shares.argmax())]
