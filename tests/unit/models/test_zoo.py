"""Networks by name."""

import importlib
import sys

import pytest
import torch
from torch import nn

from slimmable.errors import DataError, MissingDependencyError, RecipeError, SlimmableError
from slimmable.models import MODELS, build_model

OWN_MODULE = """
from torch import nn

def network(num_classes=4, width=1.0):
    return nn.Linear(int(8 * width), num_classes), (8, 1, 1)

def bare():
    return nn.Conv2d(3, 8, 3)

def number():
    return 3

CONSTANT = 1
"""


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    (tmp_path / "my_networks.py").write_text(OWN_MODULE)
    monkeypatch.chdir(tmp_path)
    yield "my_networks"
    sys.modules.pop("my_networks", None)


@pytest.fixture
def without(monkeypatch):
    """Function that makes a package look as if it were not installed."""

    def hide(package: str) -> None:
        real = importlib.import_module

        def absent(name, *args):
            if name == package:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            return real(name, *args)

        monkeypatch.setattr(importlib, "import_module", absent)

    return hide


@pytest.mark.parametrize("name", MODELS)
def test_own_names(name):
    options = {} if name.startswith("wdsr") else {"num_classes": 3}
    with torch.device("meta"):
        built = build_model(f"slimmable:{name}", width=0.25, **options)
        outputs = built.model.eval()(torch.zeros(1, *built.input_size))
    assert type(built.model).__module__.startswith("slimmable.models.")
    assert built.input_size == MODELS[name].input_size
    assert outputs.shape == ((1, 3) if options else (1, 3, *(int(name[-1]) * side for side in built.input_size[1:])))


def test_a_name_alone_is_ours_unless_another_package_has_it_too():
    torchvision, timm = pytest.importorskip("torchvision"), pytest.importorskip("timm")
    shared = {name for name in MODELS if name in torchvision.models.list_models() or timm.is_model(name)}
    assert shared == {"mobilenet_v2", "mobilenet_v3_large", "resnet50"}
    with torch.device("meta"):
        for name in MODELS:
            ours = type(build_model(name).model).__module__.startswith("slimmable")
            assert ours == (name not in shared), name


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "torchvision:mobilenet_v3_small"])
def test_torchvision_names(name):
    pytest.importorskip("torchvision")
    built = build_model(name, num_classes=5, width=0.5)
    assert built.input_size == (3, 224, 224)
    assert type(built.model).__module__.startswith("torchvision")
    assert built.model.classifier[-1].out_features == 5
    assert built.model.features[0][0].out_channels == 8


def test_torchvision_input_size_is_that_of_its_weights():
    pytest.importorskip("torchvision")
    with torch.device("meta"):
        assert build_model("efficientnet_b1").input_size == (3, 240, 240)


@pytest.mark.parametrize(
    ("name", "size"), [("lraspp_mobilenet_v3_large", (3, 520, 520)), ("mc3_18", (3, 16, 112, 112))]
)
def test_torchvision_networks_for_other_than_classification(name, size):
    pytest.importorskip("torchvision")
    with torch.device("meta"):
        assert build_model(name).input_size == size


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_networks_with_auxiliary_outputs_are_built_without(name):
    pytest.importorskip("torchvision")
    with torch.device("meta"):
        built = build_model(name, num_classes=4)
        assert built.model.train()(torch.empty(2, *built.input_size)).shape == (2, 4)


@pytest.mark.parametrize("name", ["lcnet_050", "timm:lcnet_050", "timm:mobilenetv3_small_050"])
def test_timm_names(name):
    pytest.importorskip("timm")
    built = build_model(name, num_classes=6)
    assert built.input_size == (3, 224, 224)
    assert type(built.model).__module__.startswith("timm")
    assert built.model.get_classifier().out_features == 6


def test_prefix_chooses_between_packages_that_share_a_name():
    pytest.importorskip("timm")
    with torch.device("meta"):
        assert type(build_model("resnet18").model).__module__.startswith("torchvision")
        assert type(build_model("timm:resnet18").model).__module__.startswith("timm")


def test_function_of_the_users_own(own_module):
    built = build_model(f"{own_module}:network", width=0.5, num_classes=2)
    assert (built.model.in_features, built.model.out_features) == (4, 2)
    assert built.input_size == (8, 1, 1)


def test_function_that_returns_a_network_alone(own_module):
    built = build_model(f"{own_module}:bare")
    assert isinstance(built.model, nn.Conv2d)
    assert built.input_size == (3, 224, 224)


def test_search_path_comes_back_as_it_was(own_module):
    before = list(sys.path)
    build_model(f"{own_module}:bare")
    with pytest.raises(RecipeError):
        build_model(f"{own_module}:number")
    assert sys.path == before


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet2", {}, "resnet20"),
        ("mobilenet_v33_large", {}, "mobilenet_v3_large"),
        ("qqqqqqqqq", {}, "This library's names: digits_cnn, .*, slimmable:mobilenet_v2, "),
        ("slimmable:mobilenet_v4", {}, "a name of slimmable.models.MODELS. Nearest names: mobilenet_v"),
        ("slimmable:resnet50", {"pretrained": True}, "no published weights"),
        ("wdsr_a_x2", {"num_classes": 10}, "does not take"),
        ("shufflenet_v1", {"width": 0.6}, "3 groups of 5 runs at multiples of 0.25 only"),
        ("torchvision:resnet19", {}, "resnet18"),
        ("fasterrcnn_resnet50_fpn", {}, "does not take a batch of images alone"),
        ("mobilenet_v2", {"width": 0.5, "pretrained": True}, "at width 1 only"),
        ("timm:lcnet_055", {}, "lcnet_050"),
        ("resnet20", {"pretrained": True}, "no published weights"),
        ("resnet18", {"width": 0.5}, "one width only"),
        ("timm:resnet18", {"width": 0.5}, "one width only"),
        ("no_such_module:f", {}, "no module 'no_such_module'"),
        ("my_networks:netwrok", {}, "network"),
        ("my_networks:CONSTANT", {}, "a function of module"),
        ("my_networks:bare", {"width": 0.5}, "does not take"),
        ("my_networks:number", {}, "returned a int"),
    ],
)
def test_what_cannot_be_built_says_what_can(own_module, name, options, message):
    pytest.importorskip("timm")
    with pytest.raises(RecipeError, match=message):
        build_model(name, **options)


def test_error_inside_the_users_module_is_left_alone(tmp_path, monkeypatch):
    (tmp_path / "needs_more.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there") as caught:
        build_model("needs_more:network")
    assert not isinstance(caught.value, SlimmableError)


@pytest.mark.parametrize("package", ["torchvision", "timm"])
def test_missing_package_is_named(without, package):
    without(package)
    with pytest.raises(MissingDependencyError, match=f"needs {package}, which is not installed"):
        build_model(f"{package}:resnet18")
    with pytest.raises(RecipeError, match=f"not searched: {package}"):
        build_model("no_such_network_anywhere")
    assert build_model("digits_cnn").input_size == (1, 8, 8)


def test_trained_weights_fit_another_number_of_classes_all_but_the_last_layer(monkeypatch):
    torchvision = pytest.importorskip("torchvision")
    trained = torchvision.models.shufflenet_v2_x0_5()
    kind = type(torchvision.models.get_model_weights("shufflenet_v2_x0_5").DEFAULT)
    monkeypatch.setattr(kind, "get_state_dict", lambda self, progress: trained.state_dict())

    net = build_model("shufflenet_v2_x0_5", num_classes=3, pretrained=True).model

    assert net.fc.weight.shape == (3, 1024)
    for name, value in trained.state_dict().items():
        if not name.startswith("fc."):
            assert torch.equal(net.state_dict()[name], value), name


def test_trained_weights_of_another_shape_are_refused(monkeypatch):
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        other = torchvision.models.shufflenet_v2_x1_0()
    kind = type(torchvision.models.get_model_weights("shufflenet_v2_x0_5").DEFAULT)
    monkeypatch.setattr(kind, "get_state_dict", lambda self, progress: other.state_dict())
    with pytest.raises(RecipeError, match="last layer only"):
        build_model("shufflenet_v2_x0_5", pretrained=True)


def test_trained_weights_that_cannot_be_fetched_are_named(monkeypatch):
    torchvision = pytest.importorskip("torchvision")
    kind = type(torchvision.models.get_model_weights("shufflenet_v2_x0_5").DEFAULT)

    def unreachable(self, progress):
        raise OSError("no route to host")

    monkeypatch.setattr(kind, "get_state_dict", unreachable)
    with pytest.raises(DataError, match=r"cannot be fetched \(no route to host\)"):
        build_model("shufflenet_v2_x0_5", pretrained=True)


def test_a_class_of_transformers_in_its_default_configuration():
    built = build_model("transformers:MobileViTForImageClassification", num_classes=7)
    assert built.input_size == (3, 256, 256)
    assert built.model.config.num_labels == 7
    with pytest.raises(RecipeError, match="the name of a class of transformers that has a configuration"):
        build_model("transformers:NoSuchNetwork")
    with pytest.raises(RecipeError, match=r"from_pretrained\(\.\.\.\)"):
        build_model("transformers:MobileViTForImageClassification", pretrained=True)
    with pytest.raises(RecipeError, match="built at one width only"):
        build_model("transformers:MobileViTForImageClassification", width=0.5)
