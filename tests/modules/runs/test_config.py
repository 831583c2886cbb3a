"""A run's configuration: its id, which committed result files bear, and what the id leaves out."""

from __future__ import annotations

import dataclasses
import json

import pytest

from modules.paths import PROJECT
from modules.runs.config import Execution, RunConfig
from modules.runs.results import ResultStore

REFERENCE = sorted(path.parent for path in (PROJECT / "results" / "reference").rglob("runs") if path.is_dir())
PLACE = {"source": "folder", "name": "n", "spec": "s"}
CONFIG = RunConfig(
    "glue", "rte", "lora", {"r": 8}, "paper", 0, PLACE | {"hash": "b"}, PLACE | {"hash": "d"}, {"lr": 1e-3}
)


def config_of(result) -> RunConfig:
    """The configuration that a result file is of, as far as the id depends on it."""
    return RunConfig(
        benchmark=result.benchmark,
        task=result.task,
        variant=result.variant,
        options=result.variant_config,
        protocol=result.protocol,
        seed=result.seed,
        backbone=result.backbone,
        data=result.data,
        training=result.training,
        init_from=result.init_from,
        trainer=result.trainer,
    )


@pytest.mark.parametrize("folder", REFERENCE, ids=lambda path: path.name)
def test_the_id_of_every_committed_result_follows_from_its_content(folder):
    results = [result for result in ResultStore(folder).all() if result.code is None]
    assert results
    assert [result.id for result in results if config_of(result).id != result.id] == []


def test_an_id_stays_what_it_was():
    assert CONFIG.id == "105d227e7cef"


@pytest.mark.parametrize(
    "change",
    [{"reference": True}, {"compile": "off"}, {"wandb": "online"}, {"results_dir": "x"}, {"trainer": {"devices": 2}}],
    ids=lambda change: next(iter(change)),
)
def test_how_a_run_is_carried_out_decides_nothing_of_its_id(change):
    assert dataclasses.replace(CONFIG, **change).id == CONFIG.id
    assert set(change) <= {f.name for f in dataclasses.fields(Execution)}


def test_all_batches_are_no_limit_and_one_batch_is():
    """1.0 is a share, 1 a number of batches, though the two are equal."""
    ids = {limit: dataclasses.replace(CONFIG, trainer={"limit_train_batches": limit}).id for limit in (2, 0.5)}
    ids |= {repr(limit): dataclasses.replace(CONFIG, trainer={"limit_train_batches": limit}).id for limit in (1, 1.0)}
    assert ids["1.0"] == CONFIG.id and len(set(ids.values())) == 4


@pytest.mark.parametrize("reference", [False, True])
def test_a_configuration_is_read_as_it_was_written(tmp_path, reference):
    config = dataclasses.replace(CONFIG, results_dir=str(tmp_path), reference=reference)
    config.write()
    assert RunConfig.read(str(tmp_path), config.id) == config


def test_a_file_without_the_field_reference_is_readable(tmp_path):
    config = dataclasses.replace(CONFIG, results_dir=str(tmp_path))
    config.write()
    file = config.folder / "config.json"
    content = json.loads(file.read_text())
    assert content.pop("reference") is False
    file.write_text(json.dumps(content))
    assert RunConfig.read(str(tmp_path), config.id) == config
