"""What is decayed, and how the optimizers are built."""

import importlib

import pytest
import torch
from torch import nn

from slimmable import convert
from slimmable.errors import MissingDependencyError, RecipeError
from slimmable.train import AdamW, Sgd, Timm, parameter_groups
from tests.unit.train.toy import toy_net


def names(net, group):
    ids = {id(parameter) for parameter in group["params"]}
    return {name for name, parameter in net.named_parameters() if id(parameter) in ids}


@pytest.mark.parametrize("decay_depthwise", [False, True])
@pytest.mark.parametrize("switches", [None, (0.5, 1.0)], ids=["shared", "private"])
def test_groups_partition_the_parameters(decay_depthwise, switches):
    net = toy_net(switches=switches)
    groups = parameter_groups(net, weight_decay=1e-4, decay_depthwise=decay_depthwise)
    found = sorted(id(parameter) for group in groups for parameter in group["params"])
    assert found == sorted(id(parameter) for parameter in net.parameters())
    assert [group["weight_decay"] for group in groups] == [1e-4, 0.0]


@pytest.mark.parametrize("switches", [None, (0.5, 1.0)], ids=["shared", "private"])
def test_only_convolution_and_linear_weights_are_decayed(switches):
    net = toy_net(switches=switches)
    decayed, _ = parameter_groups(net, weight_decay=1e-4)
    weights = {"model.stem.weight", "model.mix.weight", "model.head.weight"}
    assert names(net, decayed) == weights
    decayed, _ = parameter_groups(net, weight_decay=1e-4, decay_depthwise=True)
    assert names(net, decayed) == weights | {"model.depthwise.weight"}


def test_the_active_widths_make_no_difference():
    net = toy_net()
    expected = names(net, parameter_groups(net, weight_decay=1e-4)[0])
    net.set(net.space.smallest)
    assert names(net, parameter_groups(net, weight_decay=1e-4)[0]) == expected


def test_attention_projections_are_decayed():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2)

        def forward(self, x):
            return self.attention(x, x, x)[0]

    net = convert(Attention(), (torch.zeros(3, 2, 8),))
    decayed, _ = parameter_groups(net, weight_decay=1e-4)
    assert names(net, decayed) == {"model.attention.in_proj_weight", "model.attention.out_proj.weight"}


def test_frozen_parameters_are_in_no_group():
    net = toy_net()
    dict(net.named_parameters())["model.stem.weight"].requires_grad_(False)
    decayed, others = parameter_groups(net, weight_decay=1e-4)
    assert "model.stem.weight" not in names(net, decayed) | names(net, others)


def test_first_nesterov_step_by_hand():
    decayed, plain = (nn.Parameter(torch.tensor([2.0, -1.0])) for _ in range(2))
    groups = [{"params": [decayed], "weight_decay": 0.1}, {"params": [plain], "weight_decay": 0.0}]
    optimizer = Sgd(momentum=0.9).build(groups, lr=0.5)
    decayed.grad = plain.grad = torch.tensor([1.0, 3.0])
    optimizer.step()
    before, gradient = torch.tensor([2.0, -1.0]), torch.tensor([1.0, 3.0])
    torch.testing.assert_close(decayed.detach(), before - 0.5 * 1.9 * (gradient + 0.1 * before))
    torch.testing.assert_close(plain.detach(), before - 0.5 * 1.9 * gradient)


@pytest.mark.parametrize("settings", [Sgd(), AdamW()], ids=repr)
def test_torch_optimizers_are_fused(settings):
    optimizer = settings.build(parameter_groups(toy_net(), weight_decay=0.1), lr=0.1)
    assert all(group["fused"] for group in optimizer.param_groups)


@pytest.mark.parametrize("settings", [Sgd(), AdamW()], ids=repr)
def test_a_step_is_seen_in_the_version_counters(settings):
    weight = nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)
    before = weight._version
    settings.build([{"params": [weight]}], lr=0.1).step()
    assert weight._version > before


@pytest.mark.parametrize("settings", [Sgd(), AdamW()], ids=repr)
@pytest.mark.parametrize("shape", [(4, 6, 3, 3), (6, 4, 1, 1), (8, 1, 3, 3)], ids=str)
def test_fused_steps_in_channels_last_equal_plain_ones(settings, shape):
    torch.manual_seed(0)
    start, gradients = torch.randn(shape), torch.randn(3, *shape)
    plain = nn.Parameter(start.clone())
    fused = nn.Parameter(start.clone(memory_format=torch.channels_last))
    reference = {Sgd: torch.optim.SGD, AdamW: torch.optim.AdamW}[type(settings)]
    options = {"momentum": 0.9, "nesterov": True} if isinstance(settings, Sgd) else {"weight_decay": 0.01}
    slow = reference([plain], lr=0.1, foreach=False, **options)
    fast = settings.build([{"params": [fused], "weight_decay": options.get("weight_decay", 0.0)}], lr=0.1)
    for gradient in gradients:
        for parameter, optimizer in ((plain, slow), (fused, fast)):
            optimizer.zero_grad()
            (parameter * gradient).sum().backward()
            optimizer.step()
    torch.testing.assert_close(fused.detach(), plain.detach())


@pytest.mark.parametrize("name", ["lamb", "nadamw", "rmsproptf"])
def test_timm_optimizers_keep_the_groups(name):
    pytest.importorskip("timm")
    optimizer = Timm(name=name, options={"eps": 1e-6}).build(parameter_groups(toy_net(), weight_decay=0.1), lr=0.2)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    assert [group["lr"] for group in optimizer.param_groups] == [0.2, 0.2]
    assert optimizer.param_groups[0]["eps"] == 1e-6


@pytest.mark.parametrize("settings", [Timm(name="sgdd"), Timm(name="lamb", options={"beta": 1})], ids=repr)
def test_what_timm_cannot_build_is_named(settings):
    pytest.importorskip("timm")
    with pytest.raises(RecipeError, match=f"timm cannot build the optimizer '{settings.name}'"):
        settings.build(parameter_groups(toy_net(), weight_decay=0.1), lr=0.2)


def test_a_missing_timm_says_how_to_get_it(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(MissingDependencyError, match="pip install timm"):
        Timm(name="lamb").build([], lr=0.1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sgd(momentum=1.0), "Sgd.momentum is 1.0"),
        (lambda: Sgd(momentum=0.0), "Sgd.nesterov"),
        (lambda: AdamW(betas=(0.9, 1.0)), "AdamW.betas"),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(RecipeError, match=message):
        make()


def test_fused_momentum_is_plain_momentum_where_a_step_leaves_parameters_alone():
    """The parameters of a switch that is not drawn have no gradient in some steps, in the first one too."""

    def train(make):
        parameters = [torch.nn.Parameter(torch.full((3,), float(i + 1))) for i in range(3)]
        optimizer = make(parameters)
        for step in range(5):
            optimizer.zero_grad(set_to_none=True)
            sum((p**2).sum() for i, p in enumerate(parameters) if (step + i) % 2).backward()
            optimizer.step()
        return torch.stack([parameter.detach() for parameter in parameters])

    fused = train(lambda parameters: Sgd().build([{"params": parameters}], lr=0.1))
    plain = train(lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True))
    torch.testing.assert_close(fused, plain, rtol=1e-6, atol=0)
