"""One step adds up the gradients of its widths, and only the students learn from the teacher."""

from collections import UserDict, namedtuple
from dataclasses import dataclass, field

import pytest
import torch
import torch.nn.functional as F

import slimmable
from slimmable.errors import TrainingError
from slimmable.train import batch_losses, train_step
from slimmable.train.step import detached
from tests.unit.train.toy import ToyTask, samples, toy_net


@pytest.fixture
def net():
    net = toy_net().double().train()
    net.model.dropout.p = 0.0  # else every forward pass of the oracle would draw other masks
    return net


@pytest.fixture
def batch():
    images, labels = samples(10, seed=5)
    return images.double(), labels


def gradients(net):
    return {name: parameter.grad for name, parameter in net.named_parameters() if parameter.grad is not None}


def oracle(net, batch, widths_list, *, distill):
    """Slow: one graph per width, differentiated on its own."""
    images, labels = batch
    total: dict[str, torch.Tensor] = {}
    with torch.no_grad(), net.at(widths_list[0]):
        target = net(images).softmax(1)
    for index, widths in enumerate(widths_list):
        with net.at(widths):
            log_probabilities = net(images).log_softmax(1)
            if distill and index > 0:
                loss = -(target * log_probabilities).sum(1).mean()
            else:
                loss = -log_probabilities[torch.arange(len(labels)), labels].mean()
            found = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True)
        for (name, _), gradient in zip(net.named_parameters(), found, strict=True):
            if gradient is not None:
                total[name] = total.get(name, torch.zeros_like(gradient)) + gradient
    return total


@pytest.mark.parametrize("distill", [False, True], ids=["labels", "distilled"])
@pytest.mark.parametrize("ratios", [(1.0,), (1.0, 0.5), (1.0, 0.75, 0.5, 0.75)], ids=str)
def test_gradients_are_the_sum_of_each_width_s_own(net, batch, ratios, distill):
    widths_list = [net.space.uniform(ratio) for ratio in ratios]

    train_step(net, batch, task=ToyTask(), widths_list=widths_list, distill=distill)

    found, expected = gradients(net), oracle(net, batch, widths_list, distill=distill)
    assert set(found) == set(expected)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-10, atol=1e-12)


def test_gradients_add_to_those_that_were_there(net, batch):
    widths_list = [net.space.largest, net.space.smallest]
    train_step(net, batch, task=ToyTask(), widths_list=widths_list, distill=True)
    once = {name: gradient.clone() for name, gradient in gradients(net).items()}
    train_step(net, batch, task=ToyTask(), widths_list=widths_list, distill=True)
    for name, gradient in gradients(net).items():
        torch.testing.assert_close(gradient, 2 * once[name], rtol=1e-10, atol=1e-12)


def test_the_teacher_gets_no_gradient_from_its_students(net, batch):
    class OnlyDistillation(ToyTask):
        def loss(self, outputs, batch):
            return 0 * F.cross_entropy(outputs, batch[1])

    widths_list = [net.space.largest, net.space.smallest]
    train_step(net, batch, task=OnlyDistillation(), widths_list=widths_list, distill=True)

    gradient = gradients(net)["model.mix.weight"]
    out_channels, in_channels = net.space.smallest.channels[1], net.space.smallest.channels[0]
    assert gradient[:out_channels, :in_channels].abs().sum() > 0
    assert gradient[out_channels:].abs().sum() == 0
    assert gradient[:, in_channels:].abs().sum() == 0


def test_the_teacher_predicts_in_training_mode(net, batch):
    targets = []

    class Listening(ToyTask):
        def distillation_loss(self, outputs, target, batch):
            targets.append(target)
            return super().distillation_loss(outputs, target, batch)

    with torch.no_grad():
        expected = net(batch[0])
    train_step(net, batch, task=Listening(), widths_list=[net.space.largest, net.space.smallest], distill=True)
    torch.testing.assert_close(targets[0], expected)
    assert not targets[0].requires_grad


def test_losses_come_in_the_order_of_the_widths_without_a_graph(net, batch):
    widths_list = [net.space.largest, net.space.smallest]
    losses = train_step(net, batch, task=ToyTask(), widths_list=widths_list, distill=False)
    for loss, widths in zip(losses, widths_list, strict=True):
        with net.at(widths):
            torch.testing.assert_close(loss, F.cross_entropy(net(batch[0]), batch[1]))
        assert not loss.requires_grad


def test_the_net_keeps_its_widths_even_when_a_loss_fails(net, batch):
    class Failing(ToyTask):
        def distillation_loss(self, outputs, target, batch):
            raise ArithmeticError("no")

    net.set(net.space.uniform(0.75))
    with pytest.raises(ArithmeticError):
        train_step(net, batch, task=Failing(), widths_list=[net.space.largest, net.space.smallest], distill=True)
    assert net.widths == net.space.uniform(0.75)


def test_bfloat16_leaves_gradients_in_float32():
    net = toy_net().train()
    losses = train_step(
        net,
        samples(6, seed=1),
        task=ToyTask(),
        widths_list=[net.space.largest, net.space.smallest],
        distill=True,
        precision="bfloat16",
    )
    assert all(torch.isfinite(loss) for loss in losses)
    assert {gradient.dtype for gradient in gradients(net).values()} == {torch.float32}


def test_outputs_of_any_structure_are_cut_off_from_the_graph():
    Boxes = namedtuple("Boxes", ["corners", "scores"])
    x = torch.ones(2, requires_grad=True) * 2
    found = detached({"boxes": Boxes([x], (x, 3)), "none": None})
    assert isinstance(found["boxes"], Boxes)
    assert not found["boxes"].corners[0].requires_grad
    assert not found["boxes"].scores[0].requires_grad
    assert found["boxes"].scores[1] == 3
    assert found["none"] is None


@dataclass(frozen=True)
class Found:
    """Outputs as people write them."""

    logits: torch.Tensor
    hidden: tuple[torch.Tensor, ...] = ()
    count: int = field(default=3, init=False)


class Looked(UserDict):
    """A mapping that pytrees do not know."""


def model_output(**tensors):
    return pytest.importorskip("transformers.modeling_outputs").ImageClassifierOutput(**tensors)


STRUCTURES = {
    "dataclass": (lambda y: Found(logits=y, hidden=(y,)), lambda o: o.logits),
    "model output": (lambda y: model_output(logits=y), lambda o: o.logits),
    "mapping": (lambda y: Looked(logits=y), lambda o: o["logits"]),
    "named tuple": (lambda y: y.topk(3), lambda o: o.values),
    "nested": (lambda y: {"a": [Found(logits=y)], "b": (None, "name", 2.5)}, lambda o: o["a"][0].logits),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_student_learns_from_a_teacher_of_its_own_structure(net, batch, name):
    build, logits_of = STRUCTURES[name]

    class Structured(ToyTask):
        def forward(self, net, batch):
            return build(super().forward(net, batch))

        def loss(self, outputs, batch):
            return super().loss(logits_of(outputs), batch)

        def distillation_loss(self, outputs, target, batch):
            assert type(target) is type(outputs)
            assert not logits_of(target).requires_grad
            return super().distillation_loss(logits_of(outputs), logits_of(target), batch)

    class Plain(Structured):
        def forward(self, net, batch):
            return logits_of(super().forward(net, batch))

        def loss(self, outputs, batch):
            return ToyTask.loss(self, outputs, batch)

        def distillation_loss(self, outputs, target, batch):
            return ToyTask.distillation_loss(self, outputs, target, batch)

    widths_list = [net.space.largest, net.space.smallest]
    losses = train_step(net, batch, task=Structured(), widths_list=widths_list, distill=True)
    found = {name: gradient.clone() for name, gradient in gradients(net).items()}
    net.zero_grad()

    assert losses == train_step(net, batch, task=Plain(), widths_list=widths_list, distill=True)
    assert all(torch.equal(gradient, found[name]) for name, gradient in gradients(net).items())


def test_the_outputs_themselves_keep_their_graph():
    y = torch.ones(2, requires_grad=True) * 2
    given = Found(logits=y, hidden=(y,))
    found = detached(given)
    assert (type(found), found.count) == (Found, 3)
    assert given.logits.requires_grad
    assert given.hidden[0].requires_grad
    assert not found.hidden[0].requires_grad


def test_outputs_that_cannot_be_cut_off_are_named(net, batch):
    class Drawing(ToyTask):
        def forward(self, net, batch):
            return torch.distributions.Categorical(logits=super().forward(net, batch))

        def loss(self, outputs, batch):
            return super().loss(outputs.logits, batch)

    with pytest.raises(TrainingError, match=r"outputs hold a torch\.distributions\.categorical\.Categorical"):
        train_step(net, batch, task=Drawing(), widths_list=[net.space.largest, net.space.smallest], distill=True)
    train_step(net, batch, task=Drawing(), widths_list=[net.space.largest, net.space.smallest], distill=False)
    train_step(net, batch, task=Drawing(), widths_list=[net.space.largest], distill=True)


def test_dropout_at_the_widest_only_is_none_at_the_others(batch):
    net = toy_net().double().train()
    widths_list = [net.space.uniform(ratio) for ratio in (1.0, 0.75, 0.5)]
    task = ToyTask()

    def expected():
        target = None
        for widths in widths_list:
            net.model.dropout.train(target is None)
            with net.at(widths):
                outputs = net(batch[0])
                loss = task.loss(outputs, batch) if target is None else task.distillation_loss(outputs, target, batch)
                loss.backward()
            target = outputs.detach() if target is None else target
        net.model.dropout.train()

    def found(*, widest_only):
        how = {"distill": True, "dropout_widest_only": widest_only}
        train_step(net, batch, task=task, widths_list=widths_list, **how)

    results = []
    for run in (expected, lambda: found(widest_only=True), lambda: found(widest_only=False)):
        torch.manual_seed(3)
        net.zero_grad(set_to_none=True)
        run()
        assert net.model.dropout.training
        results.append(gradients(net))
    slow, own, everywhere = results
    assert set(own) == set(slow)
    for name, gradient in slow.items():
        torch.testing.assert_close(own[name], gradient, rtol=1e-10, atol=1e-12)
    assert not torch.allclose(everywhere["model.head.weight"], slow["model.head.weight"])


@pytest.fixture
def busy():
    """A network in the middle of training: dropout that drops, statistics, gradients, a module in another mode."""
    net = toy_net().double()
    slimmable.calibrate(net, [samples(30, seed=4)[0].double()], [net.space.uniform(0.75)])
    net.train()
    net.model.relu2.eval()
    train_step(
        net,
        [x.double() if x.is_floating_point() else x for x in samples(8, seed=1)],
        task=ToyTask(),
        widths_list=net.tracked,
        distill=False,
    )
    return net


def traces(net):
    """All that a look at a batch could leave in a network."""
    tensors = {name: tensor.clone() for name, tensor in net.state_dict().items() if isinstance(tensor, torch.Tensor)}
    modes = [module.training for module in net.modules()]
    grads = {name: None if p.grad is None else p.grad.clone() for name, p in net.named_parameters()}
    return tensors, grads, modes, (net.widths, net.stored, net.calibrated, torch.get_rng_state().tolist())


def assert_untouched(net, before):
    after = traces(net)
    assert after[2:] == before[2:]
    for found, expected in zip(after[:2], before[:2], strict=True):
        assert list(found) == list(expected)
        for name, tensor in expected.items():
            assert (found[name] is None) if tensor is None else torch.equal(found[name], tensor), name


def test_losses_of_a_batch_are_those_of_plain_networks_with_its_statistics(batch):
    net = toy_net().double().train()
    widths_list = [net.space.uniform(ratio) for ratio in (0.75, 1.0, 0.5)]

    found = batch_losses(net, batch, task=ToyTask(), widths_list=widths_list)

    slimmable.calibrate(net, [batch[0]], widths_list)
    for loss, widths in zip(found, widths_list, strict=True):
        plain = net.extract(widths).train()
        plain.dropout.eval()
        assert loss == pytest.approx(F.cross_entropy(plain(batch[0]), batch[1]).item(), rel=1e-6)  # in float32


def test_looking_at_a_batch_leaves_no_trace(busy, batch):
    before = traces(busy)
    widths_list = [busy.space.uniform(ratio) for ratio in (1.0, 0.5, 0.75, 0.6)]

    batch_losses(busy, batch, task=ToyTask(), widths_list=widths_list)

    assert_untouched(busy, before)


def test_looking_at_a_batch_leaves_no_trace_even_if_a_loss_fails(busy, batch):
    class Failing(ToyTask):
        def loss(self, outputs, batch):
            raise ArithmeticError("no")

    before = traces(busy)
    with pytest.raises(ArithmeticError):
        batch_losses(busy, batch, task=Failing(), widths_list=busy.tracked)
    assert_untouched(busy, before)


def test_statistics_that_all_widths_share_are_left_too(batch):
    net = toy_net(batch_norm="naive").double().train()
    before = traces(net)
    batch_losses(net, batch, task=ToyTask(), widths_list=[net.space.largest, net.space.smallest])
    assert_untouched(net, before)


def test_widths_that_stand_twice_are_run_once(net, batch):
    class Counting(ToyTask):
        runs = 0

        def forward(self, net, batch):
            self.runs += 1
            return super().forward(net, batch)

    task = Counting()
    a, b = net.space.largest, net.space.smallest

    found = batch_losses(net, batch, task=task, widths_list=[b, a, b, b, a])

    assert task.runs == 2
    narrow, wide = batch_losses(net, batch, task=task, widths_list=[b, a])
    assert found == [narrow, wide, narrow, narrow, wide]
    assert narrow != wide
    assert batch_losses(net, batch, task=task, widths_list=[]) == []


def test_losses_of_a_batch_are_computed_under_autocast_as_those_of_training():
    class Watching(ToyTask):
        def loss(self, outputs, batch):
            seen.append((outputs.dtype, torch.is_autocast_enabled("cpu")))
            return super().loss(outputs, batch)

    net, seen = toy_net().train(), []
    batch, widths_list = samples(10, seed=5), [net.space.largest, net.space.smallest]
    how = {"task": Watching(), "widths_list": widths_list, "precision": "bfloat16"}

    train_step(net, batch, distill=False, **how)
    batch_losses(net, batch, **how)

    assert seen == [(torch.bfloat16, True)] * 4
