"""Every model of torchvision gets a complete plan: each parameter assigned, or kept with a reason."""

from contextlib import nullcontext

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torchvision.models import get_model, list_models

from lightning_init.parameter_roles import role_of
from lightning_init.plan import make_plan


class EmptyOnMeta(TorchFunctionMode):
    """Weights without memory; everything that a constructor computes with stays on the CPU."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = {**(kwargs or {}), "device": "meta"} if function is torch.empty else kwargs or {}
        return function(*args, **kwargs)


def build(name):
    """Without downloading: no weights, nor the backbones' that some models come with."""
    options = {"weights": None}
    if "rcnn" in name or name.split("_")[0] in (
        "fcos",
        "retinanet",
        "ssd300",
        "ssdlite320",
        "deeplabv3",
        "fcn",
        "lraspp",
    ):
        options["weights_backbone"] = None
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = False
    with nullcontext() if name.startswith("ssdlite") else EmptyOnMeta():  # ssdlite runs itself to learn its sizes
        return get_model(name, **options)


UNKNOWN = {
    *("class_token", "pos_embedding", "layer_scale", "relative_position_bias_table", "logit_scale", "scale_weight"),
    *("spatial_pos", "temporal_pos", "class_pos", "rel_pos_h", "rel_pos_w", "rel_pos_t"),
}


@pytest.mark.parametrize("name", [name for name in list_models() if not name.startswith("quantized")])
@pytest.mark.filterwarnings("ignore:.*init.*:FutureWarning", "ignore::UserWarning")
def test_every_parameter_is_assigned_or_kept_with_a_reason(name):
    model = build(name)
    plan = make_plan(model, "he_normal")
    covered = [stored for assignment in plan.assignments for stored in assignment.place.stored]
    assert sorted(covered) == sorted(name for name, _ in model.named_parameters())
    for assignment in plan.assignments:
        assert assignment.why
        role = role_of(assignment.place)
        assert (assignment.initializer is not None) == (role in ("weight", "bias"))
        if role == "weight":
            assert 0 < assignment.target_std < 10
    # What nothing knows are tokens, tables and scales that torchvision's models own themselves; never a matrix.
    for assignment in plan.unclaimed:
        assert assignment.place.leaf in UNKNOWN, assignment.name
