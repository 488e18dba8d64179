"""Mimetic initialization: the products have their law, the factors are the paper's, and it says where it is none."""

import copy
import math

import pytest
import torch
from torch import nn
from torchvision.models import VisionTransformer, resnet18

from lightning_init import initialize, initializers
from lightning_init.initializers import names
from lightning_init.plan import make_plan
from lightning_init.structural import Mimetic
from lightning_init.structural.mimetic import product

D, HEADS = 128, 4


def matrices(attention):
    """The paper's matrices, float64: W_Q and W_K per head (d, k), W_V and W_P (d, d)."""
    query, key, value = (part.detach().double().t() for part in attention.in_proj_weight.chunk(3))
    heads = zip(query.split(attention.head_dim, 1), key.split(attention.head_dim, 1), strict=True)
    return list(heads), value, attention.out_proj.weight.detach().double().t()


def assert_noise_and_identity(found, alpha, beta):
    """Within 4 standard errors: the mean of the diagonal, the mean and the variance of all that is beside it."""
    d = len(found)
    std, count = alpha / math.sqrt(d), d * (d - 1)
    assert found.diagonal().mean().item() == pytest.approx(beta, abs=4 * std / math.sqrt(d))
    beside = found[~torch.eye(d, dtype=torch.bool)]
    assert beside.mean().item() == pytest.approx(0, abs=4 * std / math.sqrt(count))
    assert beside.square().mean().item() == pytest.approx(std**2, abs=4 * std**2 * math.sqrt(2 / count))


def targets(model, initializer, seed, name="in_proj_weight"):
    """What was drawn for values and projection, and then for the heads, read off the same random numbers."""
    plan = make_plan(model, initializer, seed=seed)
    packed = next(assignment for assignment in plan.assignments if assignment.name == name)
    generator = plan.generator(packed, torch.device("cpu"))
    like = torch.empty(1, packed.place.shape[1])
    drawn = [product(like, *packed.initializer.vp, generator)]
    drawn += [product(like, *packed.initializer.qk, generator) for _ in range(packed.initializer.heads)]
    return [one.double() for one in drawn]


def best_of_rank(target, rank):
    """Eckart & Young, by the eigenvectors of A'A: no singular value decomposition."""
    _, vectors = torch.linalg.eigh(target.t() @ target)
    top = vectors[:, -rank:]
    return target @ top @ top.t()


def test_with_one_head_both_products_are_noise_and_identity():
    attention = nn.MultiheadAttention(D, 1)
    initialize(attention, Mimetic(0.5, 0.8, 0.3, 0.6), seed=0)
    [(query, key)], value, projection = matrices(attention)
    assert_noise_and_identity(query @ key.t(), 0.5, 0.8)
    assert_noise_and_identity(value @ projection, 0.3, -0.6)


def test_with_several_heads_values_and_projection_are_one_full_product():
    attention = nn.MultiheadAttention(D, HEADS)
    initialize(attention, "mimetic", seed=0)
    _, value, projection = matrices(attention)
    assert_noise_and_identity(value @ projection, 0.4, -0.4)
    torch.testing.assert_close(value.square().sum(0), projection.square().sum(1), rtol=1e-4, atol=0)


def test_each_head_is_the_best_approximation_of_its_own_draw():
    attention = nn.MultiheadAttention(D, HEADS)
    drawn = targets(attention, "mimetic", seed=3)
    initialize(attention, "mimetic", seed=3)
    heads, value, projection = matrices(attention)
    torch.testing.assert_close(value @ projection, drawn[0], atol=1e-5, rtol=0)
    for (query, key), target in zip(heads, drawn[1:], strict=True):
        assert_noise_and_identity(target, 0.7, 0.7)
        found = query @ key.t()
        assert torch.linalg.matrix_rank(found, rtol=1e-5) == D // HEADS
        torch.testing.assert_close(found, best_of_rank(target, D // HEADS), atol=1e-5, rtol=0)
        torch.testing.assert_close(query.square().sum(0), key.square().sum(0), rtol=1e-4, atol=0)


MUTANTS = {
    "swapped sign": lambda drawn, d: drawn - 1.4 * torch.eye(d),
    "no 1/d in the noise": lambda drawn, d: (drawn - 0.7 * torch.eye(d)) * math.sqrt(d) + 0.7 * torch.eye(d),
    "std 1/d": lambda drawn, d: (drawn - 0.7 * torch.eye(d)) / math.sqrt(d) + 0.7 * torch.eye(d),
    "no noise": lambda drawn, d: 0.7 * torch.eye(d),
    "alpha and beta swapped": lambda drawn, d: (drawn - 0.7 * torch.eye(d)) * 0.4 / 0.7 + 0.4 * torch.eye(d),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_test_of_the_law_rejects(mutant):
    drawn = product(torch.empty(1, D), 0.7, 0.7, torch.Generator().manual_seed(0))
    assert_noise_and_identity(drawn, 0.7, 0.7)
    with pytest.raises(AssertionError):
        assert_noise_and_identity(MUTANTS[mutant](drawn, D), 0.7, 0.7)


def test_keys_of_another_head_or_in_place_of_queries_are_not_taken_for_the_right_ones():
    attention = nn.MultiheadAttention(D, HEADS)
    initialize(attention, "mimetic", seed=3)
    first = targets(attention, "mimetic", seed=3)[1]
    (query, key), (_, other) = matrices(attention)[0][:2]
    right = best_of_rank(first, D // HEADS)
    assert (query @ key.t() - right).norm() < 1e-4
    assert (query @ other.t() - right).norm() > 1
    assert (key @ query.t() - right).norm() > 1


def test_tokens_attend_to_those_that_are_alike():
    tokens = torch.randn(8, 1, D, generator=torch.Generator().manual_seed(0))
    tokens /= tokens.std(-1, keepdim=True)
    attention = nn.MultiheadAttention(D, 1)
    initialize(attention, "mimetic", seed=0)
    out, weights = attention(tokens, tokens, tokens)
    assert (weights[0].diagonal() > 1 / 2).all()  # softmax of d (beta +- alpha / sqrt d) / sqrt d
    assert torch.nn.functional.cosine_similarity(out, tokens, dim=-1).max() < 0  # it takes away what it reads


def test_torchs_layers_get_it_where_they_attend_to_themselves():
    model = nn.Transformer(32, 4, 2, 2, 64, batch_first=True)
    report = initialize(model, Mimetic(initializer="he_normal"), seed=0)
    why = {entry.name: entry for entry in report.entries}
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            packed, projection = why[f"{name}.in_proj_weight"], why[f"{name}.out_proj.weight"]
            _, value, out = matrices(module)
            if name.endswith("self_attn"):
                assert "near 0.7 Z + 0.7 I in each of 4 heads" in packed.why
                assert projection.why.endswith(f"W_V W_P = 0.4 Z - 0.4 I, with {name}.in_proj_weight")
                assert_noise_and_identity(value @ out, 0.4, -0.4)
            else:
                assert {packed.label, projection.label} == {"kaiming_normal"}
    assert why["encoder.layers.0.linear1.weight"].label == "kaiming_normal"


def test_torchvisions_vision_transformer_gets_it():
    model = VisionTransformer(16, 8, 2, 4, 32, 64, num_classes=3)
    before = model.encoder.pos_embedding.clone()
    initialize(model, "mimetic", seed=0)
    for layer in model.encoder.layers:
        heads, value, projection = matrices(layer.self_attention)
        assert_noise_and_identity(value @ projection, 0.4, -0.4)
        assert torch.linalg.matrix_rank(heads[1][0] @ heads[1][1].t(), rtol=1e-5) == 8
    assert torch.equal(before, model.encoder.pos_embedding)


class Both(nn.Module):
    """Attention to itself, then to a memory."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.MultiheadAttention(16, 2), nn.MultiheadAttention(16, 2, kdim=8, vdim=8)

    def forward(self, x, memory):
        x, _ = self.inner(x, key=x, value=x)
        return self.outer(x, memory, memory)[0]


def test_the_data_flow_tells_which_attends_to_another_signal():
    model = Both()
    labels = {entry.name: entry.label for entry in initialize(model, "mimetic", seed=0).entries}
    assert labels["inner.in_proj_weight"] == labels["inner.out_proj.weight"] == "mimetic"
    assert {labels[f"outer.{part}_proj_weight"] for part in "qkv"} == {"xavier_uniform"}


def test_the_same_seed_gives_the_same_and_other_layers_change_nothing():
    def made(layers):
        model = nn.Sequential(*[nn.TransformerEncoderLayer(16, 2, 8) for _ in range(layers)])
        initialize(model, "mimetic", seed=5)
        return model.state_dict()

    one, two = made(1), made(2)
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    assert not torch.equal(two["0.self_attn.in_proj_weight"], two["1.self_attn.in_proj_weight"])


def test_a_shared_packed_parameter_and_reduced_precision_keep_the_products():
    model = nn.ModuleList([nn.MultiheadAttention(32, 2), nn.MultiheadAttention(32, 2)])
    model[1].in_proj_weight = model[0].in_proj_weight
    model.double()
    initialize(model, "mimetic", seed=0)
    assert torch.equal(model[0].out_proj.weight, model[1].out_proj.weight)
    half = nn.MultiheadAttention(32, 2, dtype=torch.bfloat16)
    initialize(half, "mimetic", seed=0)
    _, value, projection = matrices(half)
    assert_noise_and_identity(value @ projection, 0.4, -0.4)


def test_it_refuses_what_it_is_not_for():
    for model, match in (
        (resnet18(), "mimetic is for self-attention .*, and ResNet has none$"),
        (nn.MultiheadAttention(8, 2, kdim=4, vdim=4), "MultiheadAttention has embed_dim=8, kdim=4, vdim=4"),
    ):
        before = copy.deepcopy(model.state_dict())
        with pytest.raises(ValueError, match=match):
            initialize(model, "mimetic")
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(ValueError, match="mimetic looks at the whole model"):
        initialize(nn.Linear(2, 2), "zeros", rules={"*": "mimetic"})
    with pytest.raises(ValueError, match="alpha_qk of Mimetic must be a finite number, at least 0"):
        Mimetic(alpha_qk=-1)


def test_its_settings_are_plain():
    assert "mimetic" in names()
    asked = Mimetic(beta_vp=-0.4, initializer="he_normal")
    assert initializers.from_config(asked.to_config()) == asked
