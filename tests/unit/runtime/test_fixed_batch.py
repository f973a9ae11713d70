"""Networks whose code fixes the batch: what an artifact says of them is what its runtimes do."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import slimmable
from slimmable.errors import DeploymentError
from slimmable.export.artifact import write_artifact
from slimmable.runtime import Runtime


class Pairs(nn.Module):
    """Scores of two examples, each seen beside the other."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        one, other = self.layer(x).relu().unbind()
        return self.head(torch.stack([one - other, other - one]))


@pytest.mark.parametrize("backend", ["onnx", "torch"])
def test_the_batch_of_the_example_stands_in_the_artifact(tmp_path, backend):
    torch.manual_seed(0)
    x = torch.randn(2, 6)
    net = slimmable.convert(Pairs(), x, divisor=4).eval()
    artifact = write_artifact(
        net, tmp_path / "pairs.slim", {"all": net.space.largest}, example_inputs=x, backends=[backend]
    )

    assert artifact.batch == 2
    assert [each.shape for each in (*artifact.inputs, *artifact.outputs)] == [(2, 6), (2, 3)]
    with Runtime(artifact, backend=backend, threads=1) as runtime:
        np.testing.assert_allclose(runtime.run(x.numpy())[0], net(x).detach().numpy(), rtol=1e-4, atol=1e-5)
        with pytest.raises(DeploymentError, match="2, 6"):
            runtime.run(np.zeros((3, 6), np.float32))
