"""Embeddings with sparse gradients: training refuses them by name, before the first step."""

import pytest
import torch
from torch import nn

from slimmable import convert, load, save
from slimmable.errors import TrainingError
from slimmable.train import Sgd, TrainSettings
from tests.unit.train.test_loop import train
from tests.unit.train.toy import ToyTask


class Words(nn.Module):
    """A network that reads words."""

    def __init__(self, *, sparse: bool) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(9, 16, sparse=sparse), nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.table(x).mean(1))


class WordsTask(ToyTask):
    def train_batches(self, net, *, epoch, seed):
        return [(torch.arange(24).reshape(6, 4) % 9, torch.arange(6) % 3)] * 2

    def validation_batches(self):
        return self.train_batches(None, epoch=0, seed=0)


@pytest.mark.parametrize("alone", [False, True], ids=["converted", "from its file"])
def test_sparse_embeddings_are_refused_by_name(tmp_path, alone):
    settings = TrainSettings(epochs=1, optimizer=Sgd(momentum=0.0, nesterov=False), weight_decay=0.0)
    words = torch.zeros(2, 4, dtype=torch.long)
    net = convert(Words(sparse=True), words)
    if alone:
        save(net, tmp_path / "net")
        net = load(tmp_path / "net")
    with pytest.raises(TrainingError, match=r"embedding 'table' has sparse=True; expected dense .*: set sparse=False"):
        train(net, settings=settings, task=WordsTask())
    for parameter in net.model.table.parameters():
        parameter.requires_grad_(False)
    train(net, settings=settings, task=WordsTask())
    train(convert(Words(sparse=False), words), settings=settings, task=WordsTask())
