"""Networks whose code fixes the batch: what an artifact says of them is what its runtimes do."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import slimmable
from slimmable.errors import DeploymentError
from slimmable.export.artifact import write_artifact
from slimmable.runtime import AdaptiveModel, Runtime
from slimmable.runtime.bench import bench


class Pairs(nn.Module):
    """Scores of two examples, each seen beside the other."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        one, other = self.layer(x).relu().unbind()
        return self.head(torch.stack([one - other, other - one]))


class One(nn.Module):
    """Takes the first of the examples, whatever the others are."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        (only,) = self.layer(x).unbind()
        return self.head(only)[None]


def exported(path, module, x, backend="onnx"):
    net = slimmable.convert(module, x, divisor=4).eval()
    return net, write_artifact(net, path, {"all": net.space.largest}, example_inputs=x, backends=[backend])


@pytest.mark.parametrize("backend", ["onnx", "torch"])
def test_the_batch_of_the_example_stands_in_the_artifact(tmp_path, backend):
    torch.manual_seed(0)
    x = torch.randn(2, 6)
    net, artifact = exported(tmp_path / "pairs.slim", Pairs(), x, backend)

    assert artifact.batch == 2
    assert [each.shape for each in (*artifact.inputs, *artifact.outputs)] == [(2, 6), (2, 3)]
    with Runtime(artifact, backend=backend, threads=1) as runtime:
        np.testing.assert_allclose(runtime.run(x.numpy())[0], net(x).detach().numpy(), rtol=1e-4, atol=1e-5)
        with pytest.raises(DeploymentError, match="2, 6"):
            runtime.run(np.zeros((3, 6), np.float32))


def test_what_needs_any_batch_says_so(tmp_path):
    _, artifact = exported(tmp_path / "pairs.slim", Pairs(), torch.randn(2, 6))
    with pytest.raises(DeploymentError, match=r"batches of 2 alone.*slimmable\.runtime\.Runtime"):
        AdaptiveModel(artifact.path, latency_ms=1000, cache=False)
    with pytest.raises(DeploymentError, match=r"batches of 2 alone.*got \[1\]"):
        bench(artifact.path)
    assert {each.batch for each in bench(artifact.path, batches=[2], rounds=2)} == {2}


def test_a_network_for_single_examples_serves_them(tmp_path):
    x = torch.randn(1, 6)
    net, artifact = exported(tmp_path / "one.slim", One(), x)
    assert artifact.batch == 1
    with AdaptiveModel(artifact.path, latency_ms=1000, batches=(1, 8), cache=False) as model:
        np.testing.assert_allclose(model(x.numpy())[0], net(x).detach().numpy(), rtol=1e-4, atol=1e-5)
