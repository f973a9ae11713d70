"""The task of making images larger, from its batches to its figures."""

import pytest
import torch
from PIL import Image
from torch import nn

import slimmable
from slimmable.errors import DataError, RecipeError
from slimmable.measure.evaluation import evaluate
from slimmable.models import wdsr, wdsr_expansions
from slimmable.tasks import PatchDataSettings, SuperResolutionTask
from slimmable.tasks.patches.batches import PatchBatch
from slimmable.train import Sandwich, Task, TrainSettings, fit, train_step
from slimmable.train.optim import AdamW


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Smooth images with edges, which a network can learn to sharpen."""
    root = tmp_path_factory.mktemp("images")
    for split, count in (("train", 3), ("test", 2)):
        (root / split).mkdir()
        for index in range(count):
            pixels = torch.zeros(3, 44 + 4 * index, 40)
            pixels[:, 10:25, 8 + index : 30] = torch.tensor([0.9, 0.4, 0.2])[:, None, None]
            pixels += torch.linspace(0, 0.1, 40)
            Image.fromarray(pixels.mul(255).byte().permute(1, 2, 0).numpy()).save(root / split / f"{index}.png")
    return PatchDataSettings(dataset="folder", root=root, patch=12, batch_size=4, repeats=8, workers=0)


@pytest.fixture(scope="module")
def task(data):
    return SuperResolutionTask(data, width=0.25, blocks=1)


def elastic(task):
    torch.manual_seed(0)
    return slimmable.convert(
        task.model(), task.example_inputs(), min_ratio=0.5, divisor=4, follow=wdsr_expansions("A", 1)
    )


def test_it_is_a_task(task):
    assert isinstance(task, Task)
    assert task.metric in evaluated(elastic(task), task, [1.0])[0]


def evaluated(net, task, ratios):
    widths = [net.space.uniform(ratio) for ratio in ratios]
    return evaluate(net, task.test_batches(), widths, forward=task.forward, metric_factory=task.metrics)


@pytest.mark.parametrize(("scale", "pixel"), [(2, 4 * (27 * 16 + 225)), (4, 16 * (27 * 16 + 225))])
def test_costs_are_counted_at_48_pixels(data, scale, pixel):
    task = SuperResolutionTask(data, scale=scale, width=0.25, blocks=1)
    net = slimmable.convert(task.model(), task.example_inputs(), follow=wdsr_expansions("A", 1))

    assert slimmable.macs(net, net.space.largest) == 48 * 48 * (27 * 16 + 72 * 16**2 + pixel)


def test_a_converted_network_runs_at_any_size_and_width(task):
    net = elastic(task).eval()
    for ratio in (0.5, 0.75, 1.0):
        widths = net.space.uniform(ratio)
        plain = net.extract(widths)
        for size in ((2, 3, 48, 48), (1, 3, 7, 31), (1, 3, 90, 5)):
            images = torch.rand(size)
            with torch.no_grad(), net.at(widths):
                found = net(images)
                assert found.shape == (size[0], 3, 2 * size[2], 2 * size[3])
                assert torch.equal(found, plain(images))


@pytest.mark.parametrize(("loss", "power"), [("l1", 1), ("l2", 2)])
def test_losses_are_means_over_pixels_and_colours(data, loss, power):
    task = SuperResolutionTask(data, loss=loss, distillation_loss=loss)
    outputs, high, target = torch.rand(3, 2, 3, 4, 6)
    batch = PatchBatch(high[..., ::2, ::2], high)

    assert task.loss(outputs, batch) == pytest.approx(((outputs - high).abs() ** power).mean().item())
    expected = ((outputs - target).abs() ** power).mean().item()
    assert task.distillation_loss(outputs, target, batch) == pytest.approx(expected)


def test_the_teacher_learns_nothing_from_its_students(task):
    target = torch.rand(1, 3, 4, 4, requires_grad=True)
    outputs = torch.rand(1, 3, 4, 4, requires_grad=True)

    task.distillation_loss(outputs, target, None).backward()

    assert target.grad is None
    assert outputs.grad is not None


def test_distilled_widths_learn_from_the_widest(task):
    net = elastic(task).train()
    batch = next(iter(task.train_batches(net, epoch=0, seed=0)))
    both = [net.space.largest, net.space.smallest]

    found = train_step(net, batch, task=task, widths_list=both, distill=True)

    outputs = []
    for widths in both:
        with net.at(widths):
            outputs.append(net(batch.low).detach())
    assert found[0] == pytest.approx((outputs[0] - batch.high).abs().mean().item(), rel=1e-5)
    assert found[1] == pytest.approx((outputs[0] - outputs[1]).abs().mean().item(), rel=1e-5)


@pytest.mark.parametrize("distillation", [True, False])
def test_training_makes_every_width_better(task, distillation):
    net = elastic(task)
    with torch.no_grad():  # a fresh network is near bicubic already
        net.model.get_parameter("skip.parametrizations.weight.original0").mul_(0.6)
    before = evaluated(net, task, (0.5, 0.75, 1.0))

    settings = TrainSettings(epochs=4, lr=3e-3, optimizer=AdamW(), weight_decay=0.0, distillation=distillation)
    fit(net, task, sampler=Sandwich(net.space), settings=settings, progress=False)

    after = evaluated(net, task, (0.5, 0.75, 1.0))
    for first, last in zip(before, after, strict=True):
        assert last["psnr_y"] > first["psnr_y"] + 1
        assert last["bicubic_psnr_y"] == first["bicubic_psnr_y"]


def test_large_images_are_evaluated_in_tiles_with_the_same_result(task, monkeypatch):
    net = elastic(task).eval()
    batch = PatchBatch(torch.rand(1, 3, 20, 50), torch.rand(1, 3, 40, 100))
    with torch.no_grad():
        whole = task.forward(net, batch)
        sizes = []
        monkeypatch.setattr(task.upscale.__func__, "__kwdefaults__", {"tile": 16})
        with net.model.register_forward_hook(lambda _net, inputs, _outputs: sizes.append(inputs[0].shape[2:])):
            found = task.forward(net, batch)
            again = task.forward(net, batch)

    torch.testing.assert_close(found, whole, rtol=0, atol=1e-5)
    assert torch.equal(again, found)
    assert len(sizes) == 1 + 2 * 2 * 4, "the reach is looked for once"


@pytest.mark.parametrize("scale", [2, 4])
def test_a_network_of_another_scale_is_refused(data, scale):
    task = SuperResolutionTask(data, scale=2, network=lambda: wdsr(4, 0.25, blocks=1))
    batch = next(iter(task.train_batches(task.model(), epoch=0, seed=0)))
    with pytest.raises(DataError, match=r"returned \(4, 3, 48, 48\) for .*; expected images 2 times larger"):
        task.forward(task.model(), batch)


def test_a_network_of_the_user(data):
    net = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2))
    task = SuperResolutionTask(data, network=lambda: net)

    assert task.model() is net
    with pytest.raises(RecipeError, match="width and blocks go with a network's name"):
        SuperResolutionTask(data, network=nn.Identity, blocks=2)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"scale": 5}, "scale is 5; expected 2, 3 or 4"),
        ({"loss": "l3"}, "loss is 'l3'; expected l1 or l2"),
        ({"distillation_loss": ""}, "distillation_loss is ''"),
    ],
)
def test_options_out_of_range(wrong, message):
    with pytest.raises(RecipeError, match=message):
        SuperResolutionTask(**wrong)


@pytest.mark.parametrize(
    ("network", "blocks", "message"),
    [
        ("wdsr", None, "no network 'wdsr' that makes images larger; expected wdsr_a, wdsr_b or module:function"),
        ("slimmable:wdsr_a_x2", 3, "blocks=3 goes with wdsr_a and wdsr_b; leave it out for slimmable:wdsr_a_x2"),
    ],
)
def test_networks_that_do_not_exist(network, blocks, message):
    with pytest.raises(RecipeError, match=message):
        SuperResolutionTask(network=network, blocks=blocks).model()


def test_to_moves_batches_and_keeps_images(task):
    moved = task.to(torch.device("cpu"))

    assert moved is not task
    assert moved.pipeline is task.pipeline
