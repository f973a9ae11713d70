import pytest

from slimmable.recipes import open_run, read_recipe, run

SMALL = ("task.data.train_samples=128", "task.data.batch_size=32", "train.epochs=1", "evaluation.widths=0.5:1.0:0.25")


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """Folder of a finished run, its recipe, and the figures it returned."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    recipe = read_recipe("digits/us-net", SMALL)
    return folder, recipe, run(recipe, folder, device="cpu")


@pytest.fixture
def opened(finished):
    """The run of ``finished``, opened anew."""
    return open_run(finished[0])
