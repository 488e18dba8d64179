"""Embeddings, every gate of recurrent modules, and attention: variances measured through forward and backward.

A gate's pre-activation cannot be seen, but its bias is added to it. So what a small step of the pre-activation does to
the output is read off a small step of the bias, in a module of one unit; the rest of the output's change is the weight.
"""

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from measuring import TOLERANCE, measured, normal_
from torch import nn

from lightning_init import fans
from lightning_init.fans import Block, Fans, Layout, layout

FAN = {"forward": "fan_in", "backward": "fan_out"}
GAIN = 2**0.5  # any but 1, so that a missing one is seen
RIGHT = pytest.approx(GAIN**2, rel=TOLERANCE)
several = settings(max_examples=4, deadline=None, derandomize=True)
directions = pytest.mark.parametrize("direction", FAN)


def of(module, name):
    return layout(module, name, getattr(module, name).shape)


def mutants_of(found, rows):
    """Wrong layouts: what a careless library would make of a packed weight of `rows` rows."""
    swapped = tuple(Block(b.rows, Fans(b.fans.fan_out, b.fans.fan_in)) for b in found.blocks)
    stacked = (Block(rows, Fans(found.fans.fan_in, rows)),)
    return {"swapped fans": Layout(swapped, found.transposed), "one block": Layout(stacked, found.transposed)}


# --- embeddings -----------------------------------------------------------------------------------------------------


def embedding_variance(module, direction, found, gain=GAIN):
    """Return the mean square of the looked up vectors; backward: of the gradient of what their one-hots are scaled by.

    A look-up is a product with a one-hot vector; `scale` is its one entry that is not zero.
    """

    def draw():
        normal_(module.weight, found, FAN[direction], gain)
        tokens = torch.randint(1, module.num_embeddings, (200,))
        scale = torch.ones(200, requires_grad=True)
        if isinstance(module, nn.EmbeddingBag):
            weights = scale[:, None] if module.mode == "sum" else None
            y = module(tokens[:, None], per_sample_weights=weights)
        else:
            y = module(tokens)
        if direction == "forward":
            return module.weight, tokens, y
        if not (isinstance(module, nn.EmbeddingBag) and module.mode == "sum"):
            y = scale[:, None] * y
        upstream = torch.randn_like(y)
        return module.weight, upstream, torch.autograd.grad(y, scale, upstream)[0]

    return measured(draw)


@directions
@several
@given(
    st.sampled_from([nn.Embedding, *(functools.partial(nn.EmbeddingBag, mode=m) for m in ("sum", "mean", "max"))]),
    st.integers(50, 200),
    st.integers(5, 60),
    st.sampled_from([None, 0]),
)
def test_an_embedding_has_one_connection_per_output(direction, make, entries, features, padding):
    module = make(entries, features, padding_idx=padding)
    found = of(module, "weight")
    assert found.padding_row == padding
    assert embedding_variance(module, direction, found) == RIGHT


@pytest.mark.parametrize(
    ("direction", "found", "gain"),
    [
        ("forward", Layout((Block(100, Fans(100, 30)),)), GAIN),  # torch's: the number of entries
        ("forward", Layout((Block(100, Fans(30, 1)),)), GAIN),  # swapped
        ("backward", Layout((Block(100, Fans(30, 1)),)), GAIN),
        ("backward", Layout((Block(100, Fans(1, 100)),)), GAIN),  # not transposed
        ("forward", Layout((Block(100, Fans(1, 30)),)), 1.0),  # missing gain
    ],
)
def test_mutants_of_embeddings_are_rejected(direction, found, gain):
    assert embedding_variance(nn.Embedding(100, 30), direction, found, gain) != RIGHT


# --- recurrent modules and cells ------------------------------------------------------------------------------------

BIASES = (0.3, -0.2, 0.5, 0.1)  # of the gates: an operating point where each of them matters
CELL = 0.7  # the cell state there
STEP = 1e-5  # how small inputs are: squares of it are nothing in float64


def at_operating_point(module):
    """Zero the weights of `module`, in float64, and give its gates their biases."""
    module.double()
    number = len(fans.gates(module))
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.zero_()
            if name.startswith("bias_ih"):
                parameter.copy_(torch.tensor(BIASES[:number]).repeat_interleave(len(parameter) // number))
            elif name.startswith("bias_hh"):
                parameter.fill_(0.4)
    return module


def hidden(module, x, h):
    """Return the hidden state after one step, of all layers and directions; `x` and `h` have a row per sample."""
    memory = torch.full((len(x), module.hidden_size), CELL, dtype=torch.float64)
    if isinstance(module, nn.RNNCellBase):
        return module(x, (h, memory))[0] if isinstance(module, nn.LSTMCell) else module(x, h)
    states = module.num_layers * (2 if module.bidirectional else 1)
    h, memory = h.expand(states, -1, -1), memory.expand(states, -1, -1)
    last = module(x[None], (h, memory) if isinstance(module, nn.LSTM) else h)[1]
    return last[0] if isinstance(module, nn.LSTM) else last


@functools.cache
def slope(kind, settings, side, gate):
    """Return d hidden / d pre-activation of one gate, which is d hidden / d bias, in a module of one unit."""
    module = at_operating_point(kind(1, 1, **dict(settings)))
    bias = next(p for name, p in module.named_parameters() if name.startswith(f"bias_{side}"))
    zero = torch.zeros(1, 1, dtype=torch.float64)
    before = hidden(module, zero, zero).item()
    with torch.no_grad():
        bias[gate] += STEP
    return (hidden(module, zero, zero).item() - before) / STEP


def gate_variance(module, suffix, side, gate, direction, found, gain=GAIN):
    """Return the mean square of one gate's pre-activation; backward: of what it sends back."""
    weight = getattr(module, f"weight_{side}{suffix}")
    index = 1 if suffix.endswith("reverse") else 0
    rows = len(weight) // len(fans.gates(module))
    factor = slope(type(module), (("nonlinearity", module.nonlinearity),) if _plain(module) else (), side, gate)
    projection = getattr(module, f"weight_hr{suffix}", None)
    x, h = (torch.zeros(32, n, dtype=torch.float64) for n in (module.input_size, _outputs(module)))
    mine = x if side == "ih" else h
    sources = (weight[:rows],) if projection is None else (weight[:rows], projection)

    def run():
        out = hidden(module, x, h)
        return out if isinstance(module, nn.RNNCellBase) else out[index]

    def draw():
        at_operating_point(module)
        if projection is not None:
            normal_(projection, of(module, f"weight_hr{suffix}"), FAN[direction])  # keeps variances
        mine.requires_grad_(False).normal_().mul_(STEP)
        without = run()  # what the input does past this weight
        normal_(weight, found, FAN[direction], gain)
        with torch.no_grad():
            weight[: gate * rows] = weight[(gate + 1) * rows :] = 0
        if direction == "forward":
            return *sources, mine, (run() - without) / (STEP * factor)
        mine.requires_grad_()
        y = run()
        upstream = torch.randn_like(y)
        (gradient,) = torch.autograd.grad(y, mine, upstream)
        if side == "hh":
            with torch.no_grad():
                weight.zero_()
            gradient = gradient - torch.autograd.grad(run(), mine, upstream)[0]
        return *sources, upstream, gradient / factor

    return measured(draw)


def _plain(module):
    return isinstance(module, (nn.RNN, nn.RNNCell))


def _outputs(module):
    return getattr(module, "proj_size", 0) or module.hidden_size


KINDS = [nn.RNN, nn.LSTM, nn.GRU, nn.RNNCell, nn.LSTMCell, nn.GRUCell]
width = st.integers(30, 60)


@st.composite
def recurrent(draw, kind):
    options = {}
    if kind in (nn.RNN, nn.RNNCell):
        options["nonlinearity"] = draw(st.sampled_from(["tanh", "relu"]))
    if not issubclass(kind, nn.RNNCellBase):
        options["bidirectional"] = draw(st.booleans())
    n_in, n_hidden = draw(width), draw(width)
    if kind is nn.LSTM and draw(st.booleans()):
        options["proj_size"] = n_hidden // 2
    suffix = "" if issubclass(kind, nn.RNNCellBase) else "_l0_reverse" if options["bidirectional"] else "_l0"
    return kind(n_in, n_hidden, **options), suffix


@directions
@pytest.mark.parametrize("side", ["ih", "hh"])
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=2, deadline=None, derandomize=True)
@given(st.data())
def test_every_gate_has_fans_of_its_own(kind, side, direction, data):
    module, suffix = data.draw(recurrent(kind))
    found = of(module, f"weight_{side}{suffix}")
    for gate in range(len(fans.gates(module))):
        assert gate_variance(module, suffix, side, gate, direction, found) == RIGHT


@several
@given(st.sampled_from(KINDS[:3]), width, width, st.booleans())
def test_a_second_layer_is_fed_by_the_first(kind, n_in, n_hidden, bidirectional):
    module = kind(n_in, n_hidden, num_layers=2, bidirectional=bidirectional)
    found = of(module, "weight_ih_l1")
    factor = slope(kind, (), "ih", len(fans.gates(module)) - 1)
    sides = 2 if bidirectional else 1
    h = torch.zeros(32, n_hidden, dtype=torch.float64)

    def draw():
        at_operating_point(module)
        for suffix in ("_l0", "_l0_reverse")[:sides]:
            nn.init.normal_(getattr(module, f"weight_ih{suffix}"))
        x = torch.randn(32, n_in, dtype=torch.float64) * STEP
        base, fed = hidden(module, 0 * x, h), hidden(module, x, h)[:sides]
        step = fed - base[:sides]
        with torch.no_grad():
            module.weight_ih_l1[-n_hidden:] = torch.randn(n_hidden, sides * n_hidden) / found.fans.fan_in**0.5
            # the first layer's output at rest is no small step: keep it out of the operating point
            module.bias_ih_l1[-n_hidden:] -= module.weight_ih_l1[-n_hidden:] @ base[:sides, 0].reshape(-1)
        response = hidden(module, x, h)[sides] - base[sides]
        return module.weight_ih_l1[-n_hidden:], step, response / (factor * step.square().mean().sqrt())

    assert measured(draw) == pytest.approx(1, rel=TOLERANCE)


@directions
@several
@given(width, st.integers(15, 29))
def test_a_projection_is_a_linear_map_of_the_hidden_state(direction, n_hidden, n_projected):
    module = nn.LSTM(3, n_hidden, proj_size=n_projected, bias=False).double()
    weight, found = module.weight_hr_l0, of(module, "weight_hr_l0")
    for parameter in module.parameters():
        nn.init.zeros_(parameter)  # the gates are half open: c becomes c / 2, and tanh(c / 2) / 2 is projected
    x, h = (torch.zeros(1, 64, n, dtype=torch.float64) for n in (3, n_projected))

    def draw():
        normal_(weight, found, FAN[direction], GAIN)
        c = (torch.randn(1, 64, n_hidden, dtype=torch.float64) * STEP).requires_grad_()
        y = module(x, (h, c))[0]
        if direction == "forward":
            return weight, c, y / (STEP / 4)
        upstream = torch.randn_like(y)
        return weight, upstream, torch.autograd.grad(y, c, upstream)[0] * 4

    assert measured(draw) == RIGHT


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRUCell])
@pytest.mark.parametrize(("mutant", "direction"), [("swapped fans", "forward"), ("one block", "backward")])
def test_mutants_of_gates_are_rejected(kind, mutant, direction):
    module, suffix = kind(20, 40), "_l0" if kind is nn.LSTM else ""
    right = of(module, f"weight_ih{suffix}")
    wrong = mutants_of(right, len(getattr(module, f"weight_ih{suffix}")))[mutant]
    last = len(right.blocks) - 1
    assert gate_variance(module, suffix, "ih", last, direction, wrong) != RIGHT
    assert gate_variance(module, suffix, "ih", last, direction, right, gain=1.0) != RIGHT


def test_every_recurrent_weight_has_a_layout_and_no_bias_has():
    module = nn.LSTM(8, 16, num_layers=2, bidirectional=True, proj_size=4)
    for name, parameter in module.named_parameters():
        found = of(module, name)
        assert (found is None) == name.startswith("bias")
        if name.startswith("weight_hr"):
            assert found.fans == Fans(16, 4)
        elif found is not None:
            assert [block.fans for block in found.blocks] == [Fans(parameter.shape[1], 16)] * 4


# --- attention ------------------------------------------------------------------------------------------------------


@st.composite
def attentions(draw):
    heads = draw(st.integers(1, 4))
    embed = heads * draw(st.integers(40 // heads, 60 // heads))
    options = {}
    if draw(st.booleans()):
        options = {"kdim": draw(st.integers(30, 60)), "vdim": draw(st.integers(30, 60))}
    return nn.MultiheadAttention(embed, heads, bias=False, batch_first=True, **options).double()


def layouts(module):
    """Return the layout of each weight that `module` has, by name."""
    found = {name: of(module, name) for name, _ in module.named_parameters(recurse=False)}
    return {**found, "out_proj.weight": of(module.out_proj, "weight")}


def fill(module, found, direction, gain=GAIN):
    """Fill what makes q, k and v with `gain`, and the output projection without."""
    for name, parameter in module.named_parameters():
        normal_(parameter, found[name], FAN[direction], 1.0 if name == "out_proj.weight" else gain)


def parts(module):
    """Return the matrices that make q, k and v of the inputs, packed or not."""
    if module.in_proj_weight is not None:
        return dict(zip("qkv", module.in_proj_weight.chunk(3), strict=True))
    return {part: getattr(module, f"{part}_proj_weight") for part in "qkv"}


def value_variance(module, direction, found, gain=GAIN):
    """Return the mean square behind the value and output projections: with one key the attention is 1."""

    def draw():
        fill(module, found, direction, gain)
        q, k, v = (torch.randn(32, 1, n, dtype=torch.float64) for n in (module.embed_dim, module.kdim, module.vdim))
        y = module(q, k, v.requires_grad_(), need_weights=False)[0]
        if direction == "forward":
            return parts(module)["v"], v, y
        upstream = torch.randn_like(y)
        return parts(module)["v"], upstream, torch.autograd.grad(y, v, upstream)[0]

    return measured(draw)


def score_variance(module, part, direction, found, gain=GAIN):
    """Return the mean square of what `part` (q or k) adds, per unit of the other: the attention to two keys shows it.

    The logarithm of its ratio is `q (k_1 - k_2) / sqrt(head)`, of which the other factor is computed here.
    """
    heads, head = module.num_heads, module.head_dim

    def draw():
        fill(module, found, direction, gain)
        q = torch.randn(256, 1, module.embed_dim, dtype=torch.float64) * STEP  # the softmax must not saturate
        k = torch.randn(256, 2, module.kdim, dtype=torch.float64)
        mine = (q if part == "q" else k).requires_grad_()
        attention = module(q, k, k.new_zeros(256, 2, module.vdim), average_attn_weights=False)[1].log()
        score = attention[..., 0, 0] - attention[..., 0, 1]  # (batch, heads)
        queries, keys = q @ parts(module)["q"].T, k @ parts(module)["k"].T
        other = (keys[:, 0] - keys[:, 1]) if part == "q" else queries[:, 0]
        other = other.detach().reshape(256, heads, head) / head**0.5
        weight = parts(module)[part]
        if direction == "forward":
            size = STEP if part == "q" else 2**0.5  # of the unit-variance input, or of the difference of two
            return weight, mine, score / (other.square().sum(-1).sqrt() * size)
        upstream = torch.randn_like(score)
        sent = (upstream[..., None] * other).square().mean().sqrt()  # at the pre-activation, in each entry
        return weight, upstream, torch.autograd.grad(score, mine, upstream)[0] / sent

    return measured(draw)


@directions
@several
@given(attentions())
def test_query_key_and_value_have_fans_of_their_own(direction, module):
    found = layouts(module)
    assert value_variance(module, direction, found) == RIGHT
    assert score_variance(module, "q", direction, found) == RIGHT
    assert score_variance(module, "k", direction, found) == RIGHT


def mutants(module, mutant):
    found = layouts(module)
    return {name: mutants_of(one, one.blocks[0].rows * len(one.blocks))[mutant] for name, one in found.items()}


def test_mutants_of_attention_are_rejected():
    packed = nn.MultiheadAttention(40, 4, bias=False, batch_first=True).double()
    separate = nn.MultiheadAttention(40, 4, bias=False, batch_first=True, kdim=24, vdim=56).double()
    swapped, one_block = mutants(separate, "swapped fans"), mutants(packed, "one block")
    assert value_variance(separate, "forward", swapped) != RIGHT
    assert score_variance(separate, "k", "forward", swapped) != RIGHT
    assert value_variance(packed, "backward", one_block) != RIGHT
    for part in "qk":
        assert score_variance(packed, part, "backward", one_block) != RIGHT
        assert score_variance(packed, part, "forward", layouts(packed), gain=1.0) != RIGHT
    assert value_variance(packed, "forward", layouts(packed), gain=1.0) != RIGHT
