"""Certificates by interval bounds: exact where the network is linear, never above what an attack leaves."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

from sanact import KWTA, PGD, SmoothMask, SoftShrink, sanitize
from sanact.certificates import SCHEMA, Job, by_intervals, certified, clean, contradicted
from sanact.data import Data
from sanact.defenses import as_defense
from sanact.engine import run
from sanact.evaluation.rows import read_rows, read_table
from tests.test_cli import sanact


class Sum(nn.Module):
    """Two logits, ± (w · x + b) / 2, as one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 2)
        w = torch.randn(16, generator=torch.Generator().manual_seed(1)) / 10
        self.w, self.b = w.double(), -float(w.sum()) / 2  # so that gray is on the boundary
        self.layer.weight.data, self.layer.bias.data = torch.stack([-w, w]) / 2, torch.tensor([-self.b, self.b]) / 2

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1))


def images(count: int = 200) -> Tensor:
    """In the middle of [0, 1], so that no small box meets its borders."""
    return 0.4 + 0.2 * torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(2))


def test_a_linear_model_is_certified_exactly_as_far_as_its_boundary():
    model, x = Sum().eval(), images()
    margin = x.double().flatten(1) @ model.w + model.b
    data = Data.from_tensors(x, (margin > 0).long(), classes=("a", "b"))
    distances = margin.abs() / model.w.abs().sum()
    eps = [0.002, 0.01, 0.03]
    table = by_intervals(model, data, eps)
    assert table.schema.equals(SCHEMA) and len(table) == 600
    for one in eps:
        assert certified(table, one).hits == int((distances > one).sum()) and clean(table, one).value == 100
    assert 0 < certified(table, 0.01).hits < 200


def test_boxes_end_at_the_borders_of_the_image_space():
    """A pixel at 1 that would have to rise further to matter."""
    model = Sum().eval()
    model.layer.weight.data = torch.zeros(2, 16)
    model.layer.weight.data[1, 0] = -1.0
    model.layer.bias.data = torch.tensor([0.0, 1.05])
    data = Data.from_tensors(torch.ones(1, 1, 4, 4), torch.tensor([1]), classes=("a", "b"))
    table = by_intervals(model, data, [0.5])
    assert certified(table, 0.5).hits == 1 and table["bound"].to_pylist() == pytest.approx([0.05])


def small() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)).eval()


def labelled(model: nn.Module, count: int = 40) -> Data:
    x = torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(3))
    return Data.from_tensors(x, model(x).argmax(1), classes=("a", "b", "c"))


def test_no_certified_image_is_broken():
    model = sanitize(small(), SoftShrink(0.1), example=torch.rand(1, 1, 4, 4))
    data = labelled(model)
    table = by_intervals(model, data, [0.005, 0.02, 0.05])
    shares = [certified(table, eps).hits for eps in (0.005, 0.02, 0.05)]
    assert shares[0] > shares[1] > shares[2] > 0
    batch = next(data.batches(40))
    for eps in (0.02, 0.05):
        broken = model(PGD(eps=eps, restarts=5)(model, batch.x, batch.y)).argmax(1) != batch.y
        holds = torch.tensor([row["certified"] for row in table.to_pylist() if row["eps"] == eps])
        assert not bool((broken & holds).any()) and bool(broken.any())


def test_what_is_misclassified_is_certified_by_nobody():
    model = small()
    data = labelled(model)
    wrong = Data.from_tensors(next(data.batches(40)).x, (torch.tensor(data.labels) + 1) % 3, classes=data.classes)
    assert certified(by_intervals(model, wrong, [1e-4]), 1e-4).hits == 0


def test_a_job_keeps_its_rows_and_knows_who_contradicts_it(tmp_path):
    model = small()
    data = labelled(model)
    job = Job(data=data, model=model, model_name="small", defense=as_defense({"0": SoftShrink(0.05)}), eps=(0.01, 0.03))
    table = job.run()
    saved = job.save(table, tmp_path)
    assert read_table(saved).equals(table) and saved.parent.name == "certificates"
    header = json.loads(read_table(saved).schema.metadata[b"sanact"])
    assert header["certificate"] == {"method": "intervals", "norm": "Linf", "eps": [0.01, 0.03]}
    assert header["defense"]["0"]["name"] == "soft-shrink"
    rows = dict(zip(job.eps, map(read_rows, run(job.cells("quick"), out=tmp_path, workers=1)), strict=True))
    assert contradicted(table, rows) == 0
    forged = table.set_column(5, "certified", [[True] * len(table)])
    assert contradicted(forged, rows) > 0


def test_errors_name_what_is_wrong():
    data, model = labelled(small()), small()
    with pytest.raises(ValueError, match=r"no bounds are known of sanitizer 'k-wta' on '0'"):
        by_intervals(sanitize(model, KWTA(0.5), example=torch.rand(1, 1, 4, 4)), data, [0.1])
    with pytest.raises(
        ValueError, match=r"sanitizer 'smooth-mask' on '0' has strengths to be learned, which were never trained"
    ):
        by_intervals(sanitize(model, SmoothMask(learnable=True), example=torch.rand(1, 1, 4, 4)), data, [0.1])
    for eps, message in (
        ([], r"at least one radius, each given once, got \[\]"),
        ([0.0], "eps must be a positive number, got 0.0"),
    ):
        with pytest.raises(ValueError, match=message):
            by_intervals(model, data, eps)
    with pytest.raises(ValueError, match="no rows at eps 0.2; there are: 0.1"):
        certified(by_intervals(model, data, [0.1]), 0.2)


def test_a_network_that_is_not_its_graph_is_found_out():
    model = small()
    data = labelled(model)
    model[1].register_forward_hook(lambda module, given, output: -output)
    with pytest.raises(ValueError, match="the bounds do not hold the logits of Sequential itself"):
        by_intervals(model, data, [0.001])


def test_the_command_line_puts_the_adaptive_accuracy_beside_the_certified(tmp_path, user_model):
    told = sanact(
        *["certify", user_model, "--data", "digits", "--plan", "*=soft-shrink:0.05", "--eps", "0.001", "--eps", "0.002"],
        *["--examples", "4", "--adaptive", "--effort", "quick", "--workers", "1", "--quiet", "--out", str(tmp_path)],
    )
    assert told.code == 0, told.err
    assert "certified accuracy in Linf" in told.out and "adaptive" in told.out and "0.002" in told.out
    assert len(list((tmp_path / "certificates").glob("*.parquet"))) == 1
    refused = sanact("certify", user_model, "--data", "digits", "--plan", "sap", "--eps", "0.1", "--examples", "4")
    assert refused.code == 1 and "no bounds are known of sanitizer 'sap'" in refused.err
