"""Error-correcting output codes against SciPy's Hadamard matrix, sums bit by bit, and an attack on what is not saturated."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.linalg import hadamard
from torch import Tensor, nn

from sanact import PGD
from sanact.defenses import ECOC, defend
from sanact.defenses.ecoc import Coded, CodeHinge, Decoder, codewords
from sanact.defenses.head import with_head
from sanact.gradients import gradient, gradient_choices
from sanact.models import build_model
from sanact.objectives import Step
from sanact.training import save_trained
from tests.conftest import load_or_skip


class Small(nn.Module):
    """One hidden layer, three classes."""

    input_shape = (1, 4, 4)

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.logits = nn.Linear(16, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(self.hidden(x.flatten(1)).relu())


def small() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Small().eval()


@pytest.mark.parametrize(("classes", "bits"), [(10, 16), (3, 4), (10, 32), (16, 16), (2, 2)])
def test_codewords_are_rows_of_scipys_matrix_whose_first_column_alternates(classes, bits):
    codes = codewords(classes, bits, seed=59)
    matrix = hadamard(bits)
    matrix[::2, 0] = -1
    rows = {tuple(row) for row in matrix.tolist()}
    assert codes.shape == (classes, bits) and {tuple(row) for row in codes.int().tolist()} <= rows
    assert len({tuple(row) for row in codes.tolist()}) == classes
    assert torch.equal(codes, codewords(classes, bits, seed=59))


def test_any_two_codewords_differ_in_about_half_of_their_bits():
    codes = codewords(16, 16, seed=1)
    for i in range(16):
        for j in range(i):
            assert int((codes[i] != codes[j]).sum()) in (7, 8, 9)


def test_the_decoder_correlates_bit_by_bit():
    codes = codewords(3, 4, seed=0)
    z = 3 * torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    expected = [
        [sum(c * math.tanh(v) for c, v in zip(code, row, strict=True)) for code in codes.tolist()] for row in z.tolist()
    ]
    torch.testing.assert_close(Decoder(codes)(z), torch.tensor(expected))


def test_attackers_differentiate_what_is_in_front_of_tanh():
    codes = codewords(3, 4, seed=0)
    decoder = Decoder(codes)
    z = torch.full((1, 4), 30.0, requires_grad=True)  # where tanh is 1 to the last bit
    assert gradient_choices(decoder) == ["exact", "correlations"]
    slopes = {}
    for choice in ("exact", "correlations"):
        with gradient(decoder, choice):
            logits = decoder(z)
            (slopes[choice],) = torch.autograd.grad(logits[0, 1], z)
        torch.testing.assert_close(logits, codes.sum(1)[None])
    assert not slopes["exact"].any()
    torch.testing.assert_close(slopes["correlations"], codes[1:2])


def test_saturated_bits_stop_an_attack_that_does_not_know_of_it():
    """The planted obstacle: bits a million times as large, which change no answer, but every exact gradient."""
    coded = Coded(with_head(small(), "logits", 4), codewords(3, 4, seed=0))
    coded.network.logits.weight.data.mul_(1e6)
    coded.eval().requires_grad_(False)
    x = torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    y, won = coded(x).argmax(1), {}
    for choice in gradient_choices(coded):
        with gradient(coded, choice):
            attack = PGD(eps=0.3, loss="margin", random_start=False)
            won[choice] = int((coded(attack(coded, x, y)).argmax(1) != y).sum())
    assert won["exact"] < 5 and won["correlations"] > 15


def test_the_hinge_loss_bit_by_bit():
    coded = Coded(with_head(small(), "logits", 4), codewords(3, 4, seed=0))
    x = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    y = torch.tensor([0, 1, 2, 0, 1, 2])
    step = Step(coded.train(), coded, x, y, share=1.0, draws=torch.Generator().manual_seed(3))
    loss, logits = CodeHinge(noise=0.5)(step)
    noisy = x + 0.5 * torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    bits, codes = coded.network(noisy).tolist(), coded.decoder.codes.tolist()
    each = [
        max(0.0, 1 - c * z) for row, label in zip(bits, y.tolist(), strict=True) for c, z in zip(codes[label], row, strict=True)
    ]
    assert loss.item() == pytest.approx(sum(each) / len(each), rel=1e-5)
    torch.testing.assert_close(logits, coded.eval()(noisy))


def test_the_network_keeps_its_body_and_gets_an_output_for_each_bit():
    network = small()
    coded = ECOC(bits=8).architecture(small()).eval()
    assert coded(torch.rand(2, 1, 4, 4)).shape == (2, 3) and coded.network.logits.out_features == 8
    torch.testing.assert_close(coded.network.hidden.weight, network.hidden.weight)


def test_weights_of_the_same_codes_are_taken(tmp_path):
    trained = ECOC(bits=32).architecture(build_model("mnist-cnn"))
    path = tmp_path / "coded.safetensors"
    save_trained(trained, path, {"defense": '{"name": "ecoc", "bits": 32, "seed": 59, "noise": 0.3}'})
    x = torch.rand(2, 1, 28, 28)
    defended = defend(build_model("mnist-cnn").eval(), ECOC(bits=32, weights=str(path)))
    torch.testing.assert_close(defended(x), trained.eval()(x))
    with pytest.raises(ValueError, match="were trained with bits 32, not 16"):
        defend(build_model("mnist-cnn").eval(), ECOC(weights=str(path)))


def test_our_weights_classify(net):
    batch = next(load_or_skip("mnist", "test").sample(100).batches(100))
    assert int((defend(net, ECOC())(batch.x).argmax(1) == batch.y).sum()) >= 95


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bits": 2}, "bits must be at least the number of classes, 3: there are as many codewords, got 2"),
        ({"bits": 12}, "bits must be a power of two, for there to be a Hadamard matrix, got 12"),
        ({"bits": 4096}, "bits must be at most 1,024, got 4096"),
        ({"noise": -1}, "noise must be a number ≥ 0, got -1"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        ECOC(**arguments).architecture(small())


def test_refuses_a_network_whose_logits_come_from_no_linear_layer():
    whole = nn.Sequential(nn.Conv2d(1, 3, 4), nn.Flatten()).eval()
    with pytest.raises(ValueError, match=r"the logits must come from one linear layer, got 0 \(Conv2d\)"):
        ECOC().architecture(whole, torch.zeros(1, 1, 4, 4))
