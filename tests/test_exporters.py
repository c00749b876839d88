"""The comparison of exporters really exports, and says of each model how true it is."""

from copy import deepcopy

import pytest
from engine_plans import plans
from exporters import DYNAMO, WAYS, Subject, measured, settled
from torch import nn

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", ["visual", "fusion"])
def test_every_way_answers_as_the_module_does(name: str) -> None:
    plan = plans()[name]
    rows = measured(Subject(name, plan.module, plan.signature), repeats=2)
    assert [(row.exporter, row.opset) for row in rows] == list(WAYS)
    assert not any(row.reason for row in rows)
    assert max(row.error for row in rows) < 1e-4
    assert [row.share for row in rows if row.ours] == [1.0]
    fewest = min(row.nodes for row in rows)
    assert [row.nodes for row in rows if row.ours] == [fewest]


def test_what_cannot_be_exported_is_a_row_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exporters.WAYS", ((DYNAMO, 23), ("TorchScript", 4)))
    plan = plans()["fusion"]
    ours, other = measured(Subject("fusion", plan.module, plan.signature), repeats=1)
    assert ours.cells()[0] == str(ours.nodes)
    assert "opset" in other.cells()[0]


def test_batch_norms_get_statistics() -> None:
    plan = plans()["visual"]
    subject = settled(Subject("visual", deepcopy(plan.module), plan.signature))
    norms = [layer for layer in subject.module.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert norms
    assert all(layer.num_batches_tracked > 0 for layer in norms)
