"""The notebook of `examples`, executed in a kernel of its own."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_the_notebook_trains_compares_and_predicts(tmp_path, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(ROOT / "examples" / "quickstart.ipynb", 4)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # it is kept without
    for cell in notebook.cells:
        cell.source = cell.source.replace("epochs=2", "epochs=1")  # for the test's time alone
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("MPLBACKEND", raising=False)
    place = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=place).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    said = ["\n".join(str(o.get("text") or o.data.get("text/plain")) for o in cell.outputs) for cell in cells]
    for words in ("embedded-roberta (embedded)", "RunResult(", "rte lora seed 0"):
        assert words in said[0]
    assert "embedded" not in said[1]  # the second call has nothing to do
    assert "Results of 2 runs" in said[2] and "my-xs" in said[2]
    assert any("image/png" in output.get("data", {}) for output in cells[4].outputs)
    assert said[5] == "{0: 'entailment', 1: 'not_entailment'}" and "probability" in said[6]
    assert len(list((tmp_path / "results" / "runs").glob("*.json"))) == 2
    assert os.listdir(tmp_path) == ["results"]  # nothing else is left where the notebook runs
