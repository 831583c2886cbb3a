"""Metrics against independent formulas, published examples, and themselves on two processes."""

import numpy as np
import pytest
import torch
import torchmetrics.functional.classification as F
from scipy import stats

from modules.benchmarks.glue.tasks import TASKS
from modules.benchmarks.text.metrics import TextMetrics
from modules.benchmarks.text.task import METRICS, TextTask
from tests.support.two_processes import in_two_processes
from variants.errors import UserError


def one_hot(predictions) -> torch.Tensor:
    """Logits whose largest entry is the prediction."""
    return torch.nn.functional.one_hot(torch.as_tensor(predictions)).float() * 3 - 1


def score(task: str, logits, labels, weight=None, split: int = 0) -> dict[str, float]:
    metrics = TextMetrics(TASKS[task])
    logits, labels = torch.as_tensor(logits), torch.as_tensor(labels)
    metrics.update(logits, labels, torch.ones(len(labels)) if weight is None else torch.as_tensor(weight), split)
    return {name: float(value) for name, value in metrics.compute().items()}


def test_published_examples():
    # scikit-learn's documentation of matthews_corrcoef: y_true = [+1, +1, +1, -1], y_pred = [+1, -1, +1, +1].
    assert score("cola", one_hot([1, 0, 1, 1]), [1, 1, 1, 0])["matthews"] == pytest.approx(-0.33, abs=5e-3)
    # SciPy's documentation of pearsonr and spearmanr.
    got = score("stsb", [[10.0], [9.0], [2.5], [6.0], [4.0]], [1.0, 2.0, 3.0, 4.0, 5.0])
    assert got["pearson"] == pytest.approx(-0.7426106572325057, abs=1e-6)
    got = score("stsb", [[5.0], [6.0], [7.0], [8.0], [7.0]], [1.0, 2.0, 3.0, 4.0, 5.0])
    assert got["spearman"] == pytest.approx(0.8207826816681233, abs=1e-6)
    # scikit-learn's documentation of matthews_corrcoef: 0 is an average random prediction, and what a constant gives.
    assert score("cola", one_hot([1, 1, 1]), [1, 0, 1])["matthews"] == 0.0
    # GLUE's MRPC if every pair is called a paraphrase: 279 of 408 dev pairs are (81.2 F1, 68.4 accuracy).
    got = score("mrpc", one_hot([1] * 408), [1] * 279 + [0] * 129)
    assert got == {"accuracy": pytest.approx(279 / 408), "f1": pytest.approx(0.8122, abs=1e-4)}


@pytest.mark.parametrize("seed", range(4))
def test_classes_against_counted_formulas(seed):
    generator = np.random.default_rng(seed)
    labels, logits = generator.integers(0, 2, 200), generator.normal(size=(200, 2)).astype(np.float32)
    said = logits[:, 1] > logits[:, 0]
    true = labels == 1
    tp, fp, fn, tn = (int(n.sum()) for n in (said & true, said & ~true, ~said & true, ~said & ~true))
    matthews = (tp * tn - fp * fn) / ((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)) ** 0.5
    assert score("mrpc", logits, labels) == {
        "accuracy": pytest.approx((tp + tn) / 200),
        "f1": pytest.approx(2 * tp / (2 * tp + fp + fn)),
    }
    assert score("cola", logits, labels)["matthews"] == pytest.approx(matthews, abs=1e-6)


@pytest.mark.parametrize("ties", [False, True])
def test_correlations_against_scipy(ties):
    generator = np.random.default_rng(0)
    labels = generator.uniform(0, 5, 300).astype(np.float32)
    said = (labels + generator.normal(size=300)).astype(np.float32)
    if ties:  # STS-B's scores are multiples of 0.2 and smaller
        labels, said = np.round(labels), np.round(said)
    got = score("stsb", said[:, None], labels)
    assert got["pearson"] == pytest.approx(stats.pearsonr(said, labels).statistic, abs=1e-6)
    assert got["spearman"] == pytest.approx(stats.spearmanr(said, labels).statistic, abs=1e-6)


def scored(task: TextTask, logits, labels) -> dict[str, float]:
    metrics = TextMetrics(task)
    for rows in (slice(0, 50), slice(50, None)):
        metrics.update(logits[rows], labels[rows], torch.ones(len(labels[rows])))
    return {name: float(value) for name, value in metrics.compute().items()}


@pytest.mark.parametrize("classes", [2, 4])
def test_classes_against_torchmetrics(classes):
    """An independent implementation; of the classes the last is neither said nor true, and does not count."""
    generator = torch.Generator().manual_seed(0)
    logits, labels = (
        torch.randn(120, classes + 1, generator=generator),
        torch.randint(0, classes, (120,), generator=generator),
    )
    logits[:, -1] = -9
    if classes == 2:
        logits = logits[:, :2]
    count = logits.shape[1]
    names = tuple(map(str, range(count)))
    metrics = tuple(name for name in METRICS["classes"] if name != "f1")
    got = scored(TextTask(name="t", title="T", fields=("a",), labels=names, metrics=metrics), logits, labels)
    own = {"num_classes": count, "average": "macro"}
    assert got["accuracy"] == pytest.approx(float((logits.argmax(-1) == labels).float().mean()))
    assert got["f1_macro"] == pytest.approx(float(F.multiclass_f1_score(logits, labels, **own)), abs=1e-6)
    assert got["precision_macro"] == pytest.approx(float(F.multiclass_precision(logits, labels, **own)), abs=1e-6)
    assert got["recall_macro"] == pytest.approx(float(F.multiclass_recall(logits, labels, **own)), abs=1e-6)
    assert got["matthews"] == pytest.approx(float(F.multiclass_matthews_corrcoef(logits, labels, count)), abs=1e-6)
    seen = logits.softmax(-1)
    each = [float(F.binary_auroc(seen[:, k], (labels == k).long())) for k in range(classes)]
    assert got["auroc"] == pytest.approx(np.mean(each), abs=1e-6)


def test_several_labels_against_torchmetrics():
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(120, 3, generator=generator), torch.randint(0, 2, (120, 3), generator=generator)
    task = TextTask(name="t", title="T", fields=("a",), labels=("a", "b", "c"), multi=True, metrics=METRICS["multi"])
    got, chances = scored(task, logits, labels.float()), logits.sigmoid()
    assert got["f1_macro"] == pytest.approx(float(F.multilabel_f1_score(chances, labels, 3)), abs=1e-6)
    assert got["f1_micro"] == pytest.approx(float(F.multilabel_f1_score(chances, labels, 3, average="micro")), abs=1e-6)
    assert got["precision_macro"] == pytest.approx(float(F.multilabel_precision(chances, labels, 3)), abs=1e-6)
    assert got["recall_macro"] == pytest.approx(float(F.multilabel_recall(chances, labels, 3)), abs=1e-6)
    assert got["auroc"] == pytest.approx(float(F.multilabel_auroc(chances, labels, 3)), abs=1e-6)
    assert got["accuracy"] == pytest.approx(float(F.multilabel_exact_match(chances, labels, 3)))


def test_errors_are_scored_so_that_higher_is_better():
    task = TextTask(name="t", title="T", fields=("a",), metrics=("neg_mse", "neg_rmse", "neg_mae"))
    got = scored(task, torch.tensor([[1.0], [2.0], [6.0]]), torch.tensor([1.0, 4.0, 3.0]))
    assert got == {
        "neg_mse": pytest.approx(-13 / 3),
        "neg_rmse": pytest.approx(-((13 / 3) ** 0.5)),
        "neg_mae": pytest.approx(-5 / 3),
    }


def test_a_task_names_metrics_of_its_kind_alone():
    assert TextTask(name="t", title="T", fields=("a",)).metrics == ("pearson",)
    with pytest.raises(UserError, match="T: a task of this kind has no metric 'pearson'; it has accuracy"):
        TextTask(name="t", title="T", fields=("a",), labels=("a", "b"), metrics=("pearson",))
    with pytest.raises(UserError, match="f1 is that of the second of two classes; of 3, f1_macro"):
        TextTask(name="t", title="T", fields=("a",), labels=("a", "b", "c"), metrics=("f1",))


def test_small_spread_far_from_zero():
    # Half-precision heads and a large mean: a running formula in float32 loses the correlation here.
    said = 1000 + torch.arange(50.0)[:, None] / 64
    assert score("stsb", said, torch.arange(50.0))["pearson"] == pytest.approx(1.0, abs=1e-6)


def test_degenerate_predictions_give_a_number():
    assert score("stsb", [[2.0]] * 4, [1.0, 2.0, 3.0, 4.0]) == {"pearson": 0.0, "spearman": 0.0}
    assert score("cola", one_hot([1, 1, 1]), [1, 0, 1])["matthews"] == 0.0
    assert score("mrpc", one_hot([0, 0, 0, 1])[:3], [1, 0, 1])["f1"] == 0.0


def test_diverged_predictions_are_not_hidden():
    assert np.isnan(list(score("stsb", [[float("nan")], [1.0], [2.0]], [1.0, 2.0, 3.0]).values())).all()


def test_predictions_of_an_untrained_head():
    said = 1 + 1e-6 * torch.tensor([[0.0], [1.0], [3.0], [2.0]])
    want = stats.pearsonr(said[:, 0].double().numpy(), [1, 2, 3, 4]).statistic
    assert score("stsb", said, [1.0, 2.0, 3.0, 4.0]) == {"pearson": pytest.approx(want), "spearman": pytest.approx(0.8)}


def test_fillers_do_not_count_and_batching_does_not_matter():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(30, 1, generator=generator)
    labels = torch.rand(30, generator=generator) * 5
    whole = score("stsb", logits, labels)
    metrics = TextMetrics(TASKS["stsb"])
    for start in range(0, 30, 7):
        part, truth = logits[start : start + 7], labels[start : start + 7]
        weight = torch.cat([torch.ones(len(truth)), torch.zeros(2)])
        metrics.update(torch.cat([part, part[:1] + 99, part[:1]]), torch.cat([truth, truth[:1], truth[:1]]), weight)
    got = {name: float(value) for name, value in metrics.compute().items()}
    assert got == pytest.approx(whole, abs=1e-12)
    metrics.reset()
    metrics.update(logits, labels, torch.ones(30))
    assert {name: float(value) for name, value in metrics.compute().items()} == pytest.approx(whole, abs=1e-12)


def test_mnli_is_pooled_and_split():
    metrics = TextMetrics(TASKS["mnli"])
    metrics.update(one_hot([0, 1, 2, 2]), torch.tensor([0, 1, 2, 0]), torch.ones(4), 0)
    metrics.update(one_hot([0, 2]), torch.tensor([0, 1]), torch.tensor([1.0, 1.0]), 1)
    got = {name: float(value) for name, value in metrics.compute().items()}
    want = {"accuracy": 4 / 6, "accuracy_matched": 3 / 4, "accuracy_mismatched": 1 / 2}
    assert got == pytest.approx(want)
    assert score("mnli", one_hot([0, 1, 2]), [0, 1, 1]) == pytest.approx({"accuracy": 2 / 3, "accuracy_matched": 2 / 3})
    assert tuple(score("mnli", one_hot([0, 1, 2]), [0, 1, 1])) == ("accuracy", "accuracy_matched")
    assert tuple(metrics.compute()) == TASKS["mnli"].metrics
    assert tuple(score("cola", one_hot([0, 1, 0]), [0, 1, 1])) == ("matthews", "accuracy") == TASKS["cola"].metrics


def test_half_precision_logits():
    got = score("stsb", torch.tensor([[1.0], [2.0], [4.0]], dtype=torch.bfloat16), [1.0, 2.0, 3.0])
    assert got["spearman"] == pytest.approx(1.0, abs=1e-12)


def on_one_rank(device: torch.device, truth, said, classes, scores) -> list[dict[str, float]]:
    """What all ranks' rows give, where each has its share of them: of STS-B and of MNLI."""
    cases = {
        "uneven": [(0, 7, 1.0), (7, 11, 1.0)],
        "only a filler row": [(0, 11, 1.0), (0, 1, 0.0)],
        "no batch at all": [(0, 11, 1.0), (0, 0, 0.0)],
    }
    stsb, mnli, found = TextMetrics(TASKS["stsb"]), TextMetrics(TASKS["mnli"]), []
    for shares in cases.values():
        first, last, weight = shares[torch.distributed.get_rank()]
        for start in range(first, last, 3):
            rows = slice(start, min(start + 3, last))
            weights = torch.full((rows.stop - start,), weight)
            stsb.update(said[rows], truth[rows], weights)
            mnli.update(scores[rows], classes[rows], weights, split=0)
        found.append({name: float(value) for name, value in {**stsb.compute(), **mnli.compute()}.items()})
        stsb.reset(), mnli.reset()
    return found


@pytest.mark.slow
def test_two_processes_give_what_one_gives(tmp_path):
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(11, generator=generator) * 5
    said = truth[:, None] + torch.randn(11, 1, generator=generator)
    classes, scores = torch.randint(0, 3, (11,), generator=generator), torch.randn(11, 3, generator=generator)
    accuracy = float((scores.argmax(1) == classes).double().mean())
    want = {
        "pearson": stats.pearsonr(said[:, 0], truth).statistic,
        "spearman": stats.spearmanr(said[:, 0], truth).statistic,
        "accuracy": accuracy,
        "accuracy_matched": accuracy,
    }
    results = in_two_processes(tmp_path, on_one_rank, truth, said, classes, scores)
    assert results[0] == results[1] and len(results[0]) == 3
    assert all(result == pytest.approx(want, abs=1e-6) for result in results[0])
