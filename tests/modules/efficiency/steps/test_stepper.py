"""One training step, eager and in CUDA graphs."""

import pytest
import torch

from modules.efficiency.steps import backbones, grid, implementations, loss_curves, stepper
from modules.efficiency.steps import batches as batch_kinds
from tests.support.efficiency import CPU, ROBERTA, SMALL


def stepper_of(method, mode, device=CPU):
    """Ours, with batches of which not all have one shape once they are packed."""
    options = grid.METHODS[method] | SMALL.get(method, {})
    master = backbones.build(ROBERTA, device, dropout=False)
    trainee = implementations.ours(master, method, options, bf16=False)
    assert trainee.kind == "packed"
    return stepper.Stepper(trainee, mode, loss_curves.RATE, faithful=True)


def packed_batches(device=CPU):
    batches = batch_kinds.fixed_batches(ROBERTA, 32, 48, device, 3)
    assert len({batch_kinds.shape_of(batch_kinds.picked(batch, "packed")) for batch in batches}) > 1
    return batches


@pytest.mark.parametrize("method", grid.METHODS)
def test_warming_up_between_steps_leaves_no_trace(method):
    """As where a batch's shape is new and gets its graph after other graphs' steps."""
    batches, plain, warmed = packed_batches(), stepper_of(method, "eager"), stepper_of(method, "eager")
    for batch in (*batches, *batches):
        with warmed._undone():
            for _ in range(stepper.WARM_UP):
                warmed._step(batch_kinds.picked(batch, "packed"))
        assert torch.equal(warmed(batch), plain(batch))


@pytest.mark.gpu("CUDA graphs")
@pytest.mark.parametrize("method", grid.METHODS)
def test_graphs_of_several_shapes_are_the_eager_step(method):
    device = torch.device("cuda")
    batches = packed_batches(device)
    graphs, eager = stepper_of(method, "graphs", device), stepper_of(method, "eager", device)
    for batch in batches * 3:
        assert graphs(batch).item() == pytest.approx(eager(batch).item(), rel=1e-3)
        mine, theirs = (torch.cat([p.grad.flatten() for p in one.parameters]) for one in (graphs, eager))
        assert (mine - theirs).norm() < 0.01 * theirs.norm()
