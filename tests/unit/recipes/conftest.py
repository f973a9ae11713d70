import pytest

from slimmable.recipes import open_run, read_recipe, run

SMALL = ("task.data.train_samples=128", "task.data.batch_size=32", "train.epochs=1", "evaluation.widths=0.5:1.0:0.25")
PLATFORMS = (
    "method.platforms=[{name: watch, budget: 4e5, importance: 0.5, sampling: 0.5}, "
    "{name: phone, budget: 1.2e6, importance: 0.5, sampling: 0.5}]"
)
METHODS = {
    "pareco": ["method.kind=pareco", "method.n=3", "method.warm_up=4", "method.acquisition.pool=64", "method.front=3"],
    "ows": ["method.kind=ows", "method.choices=3", "train.distillation=false", PLATFORMS],
}
"""Changes of a recipe that make it one of a method that finds widths, as small as it gets."""


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """Folder of a finished run, its recipe, and the figures it returned."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    recipe = read_recipe("digits/us-net", SMALL)
    return folder, recipe, run(recipe, folder, device="cpu")


@pytest.fixture(scope="session")
def found_by(tmp_path_factory):
    """Folders of finished runs of two epochs, and the figures they returned, by method."""
    runs = {}
    for kind, changes in METHODS.items():
        folder = tmp_path_factory.mktemp("runs") / kind
        recipe = read_recipe("digits/us-net", [*SMALL, "train.epochs=2", "evaluation.widths=0.5", *changes])
        runs[kind] = (folder, recipe, run(recipe, folder, device="cpu", progress=False))
    return runs


@pytest.fixture
def opened(finished):
    """The run of ``finished``, opened anew."""
    return open_run(finished[0])
