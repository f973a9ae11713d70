"""One sub-network in one file: plain tensors, and what they are.

The file is in safetensors format. Its tensors are the ``state_dict`` of the plain network at its widths; its metadata
holds one JSON text under ``manifest`` that says which network, which widths, what it costs and what it was worth.
Nothing of the library's own classes is in it.
"""

import json
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from slimmable.core.space import Widths
from slimmable.core.trace import tensors
from slimmable.cost.analytic import activation_bytes, macs, parameters
from slimmable.errors import CheckpointError, ExtractionError
from slimmable.recipes.building import converted
from slimmable.recipes.config import ConversionSettings
from slimmable.recipes.facts import NetworkFacts
from slimmable.recipes.figures import require_calibrated
from slimmable.recipes.folder import OpenRun
from slimmable.recipes.methods import Naive
from slimmable.recipes.tasks import TaskSettings
from slimmable.recipes.widths import NamedWidths
from slimmable.record import atomic_path, environment, jsonable

FORMAT = "slimmable subnetwork"
VERSION = 2
_OF_CLASSIFICATION = 1
"""The version whose networks are all classifiers: it names the network and no task."""
TOLERANCE = 1e-5
"""Largest difference of outputs, relative to the largest output, that folding batch norm may make."""

_TASK: TypeAdapter[TaskSettings] = TypeAdapter(TaskSettings)


def write_subnetwork(
    opened: OpenRun, width: NamedWidths, path: str | Path, *, fold_batch_norm: bool = False
) -> dict[str, Any]:
    """Write a trained network at ``width`` as a plain one, and check what was written.

    The file is read again, the network in it rebuilt, and its output on an example compared with that of the elastic
    network: equal to the bit, or with ``fold_batch_norm`` to 1e-5 of the largest output. Only then does it appear.

    Args:
        opened: A run, from :func:`slimmable.recipes.folder.open_run`.
        width: Which sub-network.
        path: The file.
        fold_batch_norm: Merge batch norms into the layers before them: fewer operations, for inference only.

    Returns:
        The manifest, as it stands in the file.

    Raises:
        CalibrationError: Batch norm has no statistics for these widths.
        ExtractionError: The network read back gives another output.
    """
    net, _, recipe, facts = opened
    require_calibrated(net, [width])
    plain = net.extract(width.widths, fold_batch_norm=fold_batch_norm).eval()
    manifest = {
        "task": recipe.task.model_dump(mode="json", exclude={"data"}),
        "facts": jsonable(facts),
        "convert": recipe.convert.model_dump(mode="json"),
        "width": width.label,
        "widths": width.widths.to_json(),
        "fold_batch_norm": fold_batch_norm,
        "macs": macs(net, width.widths),
        "parameters": sum(parameter.numel() for parameter in plain.parameters()),
        "parameters_unfolded": parameters(net, width.widths),
        "activation_bytes": activation_bytes(net, width.widths),
        "environment": environment(),
        "rebuild": "slimmable.recipes.open_subnetwork(FILE) returns the plain torch.nn network",
    }
    with atomic_path(path) as temporary:
        metadata = {"format": FORMAT, "version": str(VERSION), "manifest": json.dumps(manifest)}
        temporary.write_bytes(save(_apart(plain.state_dict()), metadata))
        _check(opened, width, temporary, exact=not fold_batch_norm)
    return manifest


def open_subnetwork(path: str | Path) -> nn.Module:
    """The plain network in a file that :func:`write_subnetwork` wrote, in evaluation mode, on the CPU.

    Raises:
        CheckpointError: The file is missing, damaged or of another kind.
    """
    manifest, tensors = _read(path)
    facts = NetworkFacts.from_json(manifest["facts"])
    task = _TASK.validate_json(json.dumps(manifest["task"]))
    options = ConversionSettings.model_validate_json(json.dumps(manifest["convert"]))
    # Any batch norm will do to get modules of the right sizes; their content comes from the file.
    net = converted(task.plain_network(facts), facts.example_inputs(), options=options, method=Naive()).eval()
    widths = net.space.widths(Widths.from_json(manifest["widths"]))
    plain = net.extract(widths, fold_batch_norm=manifest["fold_batch_norm"]).eval()
    own = plain.state_dict()
    shared = {name: tensors[other] for name, other in _aliases(own).items() if other in tensors}
    try:
        plain.load_state_dict({**shared, **tensors})
    except RuntimeError as error:
        problem = " ".join(str(error).split())
        raise CheckpointError(f"{path} does not fit the network it names: {problem}") from error
    return plain


def _read(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read as a sub-network: {error}") from error
    version = metadata.get("version")
    if metadata.get("format") != FORMAT or version not in (str(_OF_CLASSIFICATION), str(VERSION)):
        raise CheckpointError(
            f"{path} has format {metadata.get('format')!r}, version {version!r}; expected {FORMAT!r}, version "
            f"{_OF_CLASSIFICATION} or {VERSION}, as slimmable extract writes it"
        )
    manifest = json.loads(metadata["manifest"])
    if version == str(_OF_CLASSIFICATION):
        manifest["task"] = {"kind": "classification", "network": manifest["network"]}
    return manifest, tensors


def _check(opened: OpenRun, width: NamedWidths, path: Path, *, exact: bool) -> None:
    inputs = opened.facts.example_inputs()
    with torch.no_grad(), opened.net.at(width.widths):
        expected = opened.net(*inputs)
    with torch.no_grad():
        found = open_subnetwork(path)(*inputs)
    apart = max(_apart_by(*pair) for pair in zip(tensors(found), tensors(expected), strict=True))
    allowed = 0.0 if exact else TOLERANCE
    if not apart <= allowed:
        raise ExtractionError(
            f"the sub-network at {width.label}, read back from its file, gives outputs {apart:.1e} of the largest "
            f"apart from the elastic network's; expected at most {allowed}. Nothing was written"
        )


def _apart_by(found: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    return (found - expected).abs().max().item() / max(expected.abs().max().item(), torch.finfo(expected.dtype).tiny)


def _aliases(tensors: dict[str, Tensor]) -> dict[str, str]:
    """The first name of every tensor that has several, by the others."""
    first: dict[int, str] = {}
    named = {name: first.setdefault(tensor.data_ptr(), name) for name, tensor in tensors.items() if tensor.numel()}
    return {name: other for name, other in named.items() if name != other}


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    shared = _aliases(tensors)
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items() if name not in shared}
