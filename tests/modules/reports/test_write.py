"""The written tables do not depend on the order of the results."""

from modules.benchmarks.glue import GLUE
from modules.reports.tables.build import build
from modules.reports.write import write_tables
from modules.runs.results import ResultStore
from tests.support.results import run
from tests.support.tables import EIGHT, PAPERS


def test_tables_are_the_same_bytes_whatever_the_order(tmp_path):
    results = [
        run(task, 0.6 + 0.01 * seed, seed, variant_config__r=r) for task in EIGHT for seed in (0, 1) for r in (4, 8)
    ]
    results += [run(backbone__name="other", protocol="paper"), run(training__lr=1e-3)]
    store = ResultStore(tmp_path)
    for result in results:
        store.write(result)
    first = [path.read_bytes() for path in write_tables(tmp_path, build(results, GLUE, PAPERS), GLUE)]
    again = [path.read_bytes() for path in write_tables(tmp_path, build(results[::-1], GLUE, PAPERS), GLUE)]
    read = [path.read_bytes() for path in write_tables(tmp_path, build(store.all(), GLUE, PAPERS), GLUE)]
    assert first == again == read
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "glue-differences.csv",
        "glue.csv",
        "glue.md",
        "glue.tex",
        "runs",
    ]
