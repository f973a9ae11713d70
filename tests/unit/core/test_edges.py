"""Networks at the edge of what conversion meets: shared and tied layers, single choices, layers without a rule."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import slimmable
from slimmable.errors import CalibrationError, CheckpointError, ConversionError, WidthError


class Twice(nn.Module):
    """One convolution under two names, of which one is followed by a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 1)
        self.a = nn.Conv2d(16, 16, 1)
        self.b = self.a
        self.n1, self.n2 = nn.BatchNorm2d(16), nn.BatchNorm2d(16)
        self.head = nn.Conv2d(16, 4, 1)

    def forward(self, x):
        return self.head(self.n2(self.b(F.relu(self.n1(self.a(self.stem(x)))))))


def images(count=8):
    return torch.randn(count, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def calibrated(ratio=0.5, **how):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 2, 3)).eval()
    net = slimmable.convert(plain, images(), **how)
    widths = net.space.uniform(ratio)
    slimmable.calibrate(net, [images()], [widths])
    return net, widths


def test_a_layer_under_two_names_keeps_its_batch_norm_when_others_are_folded():
    torch.manual_seed(0)
    net = slimmable.convert(Twice().eval(), images())
    widths = net.space.smallest
    slimmable.calibrate(net, [images()], [widths])
    with torch.no_grad(), net.at(widths):
        torch.testing.assert_close(net.extract(widths, fold_batch_norm=True)(images()), net(images()))


def test_averaged_layers_that_share_a_weight_are_each_scaled_once():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.Linear(16, 2))
    plain[3].weight = plain[1].weight
    x = torch.randn(3, 4)
    net = slimmable.convert(plain, x, averaged=True)
    with torch.no_grad(), net.at(net.space.smallest):
        torch.testing.assert_close(net.extract(net.space.smallest)(x), net(x))


def test_averaged_layers_that_compute_their_weight_are_refused_by_name():
    normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(16, 8, 1))
    plain = nn.Sequential(nn.Conv2d(3, 16, 1), nn.ReLU(), normed, nn.Conv2d(8, 2, 1))
    with pytest.raises(ConversionError, match=r"averaged: layer '2' computes its weight"):
        slimmable.convert(plain, images(), averaged=True)


class Bare(nn.Module):
    """A layer whose weight another module's code computes with."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 64), nn.Linear(64, 32), nn.Linear(32, 2)

    def forward(self, x):
        return self.c(F.linear(self.a(x).relu(), self.b.weight, self.b.bias).relu())


class Attended(nn.Module):
    """Attention, whose code takes the weight of its output layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix = nn.Linear(4, 64), nn.MultiheadAttention(64, 8, batch_first=True)
        self.head = nn.Linear(64, 2)

    def forward(self, x):
        x = self.embed(x)
        return self.head(x + self.mix(x, x, x, need_weights=False)[0])


class Encoded(nn.Module):
    """A layer that has a fast way in evaluation, which calls none of the layers in it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.layer = nn.Linear(4, 64), nn.TransformerEncoderLayer(64, 8, 128, dropout=0.0, batch_first=True)
        self.head = nn.Linear(64, 2)

    def forward(self, x):
        return self.head(self.layer(self.embed(x)))


class Standardised(nn.Linear):
    """A layer whose output does not depend on the scale of its weight."""

    def forward(self, x):
        return F.linear(x, F.normalize(self.weight, dim=1), self.bias)


@pytest.mark.parametrize(
    ("plain", "options", "message"),
    [
        (Bare(), {}, r"module '' \(Bare\) computes with b.weight without calling the layer 'b'"),
        (Attended(), {}, "module 'mix' .MultiheadAttention. computes with mix.out_proj.weight without calling"),
        (Encoded(), {}, "module 'layer.self_attn' .MultiheadAttention. computes with layer.self_attn.out_proj.weight"),
        (Encoded(), {"exclude": ["embed", "layer.self_attn"]}, "module 'layer' .* computes with layer.linear2.weight"),
        (
            nn.Sequential(nn.Linear(4, 64), nn.ReLU(), Standardised(64, 2)),
            {},
            "the outputs differ; a layer computes with its weight otherwise than in proportion: convert without",
        ),
    ],
    ids=["bare", "attention", "encoder", "fast way", "standardised"],
)
def test_averaged_layers_whose_weight_is_read_otherwise_are_refused_by_name(plain, options, message):
    x = torch.randn(2, 5, 4)
    assert slimmable.convert(plain, x, **options).space.names
    with pytest.raises(ConversionError, match=message):
        slimmable.convert(plain, x, averaged=True, **options)


def test_averaged_layers_that_share_a_weight_with_an_embedding_are_converted():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.inner, self.decode = nn.Embedding(11, 32), nn.Linear(32, 32), nn.Linear(32, 11)
            self.decode.weight = self.embed.weight

        def forward(self, x):
            return self.decode(self.inner(self.embed(x)))

    x = torch.arange(6).view(2, 3)
    net = slimmable.convert(Tied(), x, averaged=True)
    with torch.no_grad(), net.at(net.space.smallest):
        torch.testing.assert_close(net.extract(net.space.smallest)(x), net(x))


@pytest.mark.parametrize("averaged", [False, True])
def test_widening_keeps_the_given_network_also_in_channels_last(averaged):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 2, 1)).eval()
    plain = plain.to(memory_format=torch.channels_last)
    net = slimmable.convert(plain, images(), max_ratio=1.5, averaged=averaged)
    with torch.no_grad():
        assert torch.equal(net(images()), plain(images()))


def test_a_copy_keeps_its_calibration():
    net, widths = calibrated()
    with torch.no_grad(), net.at(widths):
        expected = net(images())
    twin = copy.deepcopy(net)
    with torch.no_grad(), twin.at(widths):
        assert torch.equal(twin(images()), expected)


def test_pickling_is_refused_with_the_way_to_save():
    with pytest.raises(CheckpointError, match=r"slimmable\.save"):
        pickle.dumps(calibrated()[0])


def test_switches_start_at_the_given_width_and_are_kept_without_batch_norm():
    net = slimmable.convert(nn.Sequential(nn.Linear(4, 32), nn.Linear(32, 2)), torch.zeros(1, 4), switches=[0.25, 1.0])
    assert net.widths == net.space.base
    assert net.switches == (net.space.uniform(0.25), net.space.base)


def test_weights_changed_by_a_fused_optimizer_in_evaluation_are_seen_without_gradients():
    net, widths = calibrated(batch_norm=None)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, fused=True)
    with net.at(widths):
        with torch.no_grad():
            before = net(images())
        net(images()).square().mean().backward()
        optimizer.step()
        with torch.no_grad():
            after = net(images())
    assert not torch.allclose(before, after)
    with torch.no_grad():
        torch.testing.assert_close(net.extract(widths)(images()), after)


def test_a_norm_that_ignores_its_momentum_is_measured_all_the_same():
    class Stubborn(nn.BatchNorm2d):
        def forward(self, x):
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training, 0.1)

    net = slimmable.convert(nn.Sequential(nn.Conv2d(3, 16, 1), Stubborn(16), nn.Conv2d(16, 2, 1)), images())
    slimmable.calibrate(net, [images() + 5], [net.space.smallest])
    with torch.no_grad(), net.at(net.space.smallest):
        inputs = net.model[0](images() + 5)
    torch.testing.assert_close(net.table(net.space.smallest).value(0, "mean"), inputs.mean((0, 2, 3)))


def test_a_group_with_one_choice_is_fixed_and_said_to_be():
    net = slimmable.convert(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 32), nn.Linear(32, 2)), torch.zeros(1, 4))
    assert len(net.space) == 1
    assert "0: all 8 channels stay: steps of 8 leave no other choice" in str(net.report)


def test_grouped_convolutions_keep_two_choices():
    plain = nn.Sequential(nn.Conv2d(3, 104, 1), nn.Conv2d(104, 104, 1, groups=13), nn.Conv2d(104, 2, 1))
    net = slimmable.convert(plain, images())
    assert [group.choices for group in net.space.groups] == [(52, 104), (52, 104)]


def test_layers_without_a_rule_are_named_as_fixed_and_uncounted():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.lstm, self.head = nn.Linear(4, 32), nn.LSTM(32, 16, batch_first=True), nn.Linear(16, 2)

        def forward(self, x):
            return self.head(self.lstm(self.embed(x))[0])

    report = slimmable.convert(Recurrent(), torch.zeros(2, 5, 4)).report
    assert report.uncounted == ("lstm",)
    assert "lstm" in report.layers
    assert "lstm" in {pin.layer for pin in report.pinned}


def test_group_norm_by_a_number_in_the_code_says_what_it_fixes():
    class Normed(nn.Module):
        def forward(self, x):
            return nn.functional.group_norm(x, 32)

    net = slimmable.convert(nn.Sequential(nn.Conv2d(3, 32, 1), Normed(), nn.Conv2d(32, 2, 1)), images())
    assert {pin.layer for pin in net.report.pinned} == {"0", "2"}


def test_random_widths_take_a_torch_generator():
    net, _ = calibrated()
    first, again = (net.space.random(torch.Generator().manual_seed(3)) for _ in range(2))
    assert first == again
    with pytest.raises(WidthError, match=r"random\.Random or a torch\.Generator"):
        net.space.random(3)


def test_lists_where_tuples_belong_and_the_other_way_round_are_answered_with_the_cure():
    net, widths = calibrated()
    with pytest.raises(ConversionError, match="a tuple of the forward's arguments"):
        slimmable.convert(nn.Linear(2, 2), [torch.zeros(1, 2)])
    with pytest.raises(CalibrationError, match=r"\[widths\]"):
        slimmable.calibrate(net, [images()], widths)
    with pytest.raises(CalibrationError, match=r"\[images\]"):
        slimmable.calibrate(net, images(), [widths])


def test_what_is_computed_from_parameters_alone_counts_once_for_a_batch():
    class Biased(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.bias, self.layer = nn.Buffer(torch.ones(5, 2)), nn.Linear(2, 16), nn.Linear(4, 16)
            self.head = nn.Linear(16, 2)

        def forward(self, x):
            return self.head(self.layer(x) + self.bias(self.table).mean(0))

    for batch in (1, 3):
        net = slimmable.convert(Biased(), torch.zeros(batch, 4), divisor=4)
        for kept in (4, 16):
            assert slimmable.macs(net, net.space.widths((kept,))) == 5 * 2 * kept + 4 * kept + 2 * kept


def test_what_is_computed_for_each_example_counts_for_each_whatever_it_is_computed_from():
    class Placed(nn.Module):
        def __init__(self):
            super().__init__()
            self.place, self.token, self.layer = nn.Linear(3, 16), nn.Linear(5, 16), nn.Linear(4, 16)
            self.start, self.head = nn.Buffer(torch.ones(1, 5)), nn.Linear(16, 2)

        def forward(self, x):
            places, starts = torch.zeros(len(x), 3), self.start.expand(len(x), -1)
            return self.head(self.layer(x) + self.place(places) + self.token(starts))

    for batch in (1, 3):
        net = slimmable.convert(Placed(), torch.zeros(batch, 4), divisor=4)
        for kept in (4, 16):
            assert slimmable.macs(net, net.space.widths((kept,))) == (4 + 3 + 5 + 2) * kept


class RunningMean(nn.Module):
    """A norm by hand, which replaces its buffer in every step of training."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))

    def forward(self, x):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean((0, 2, 3))
        return x - self.mean[:, None, None]


def test_a_buffer_is_replaced_at_full_width_and_never_by_a_narrow_one():
    plain = nn.Sequential(nn.Conv2d(3, 16, 1), RunningMean(16), nn.Conv2d(16, 2, 1)).eval()
    x = torch.randn(2, 3, 4, 4)
    expected = plain[0](x).mean((0, 2, 3)) / 10
    net = slimmable.convert(plain, x, divisor=4)
    net.train()(x)
    torch.testing.assert_close(net.model[1].mean, expected)
    with net.at(net.space.smallest), pytest.raises(WidthError, match=r"assigns a tensor of shape \(4,\) to its 'mean'"):
        net(x)
    torch.testing.assert_close(net.model[1].mean, expected)
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(x), net.extract(net.space.largest)(x))
