"""The wire format, held to what the onnx package reads and writes."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from slimmable.errors import DeploymentError
from slimmable.runtime.protobuf import Place, names_files, with_references, with_tensors

TYPES = (
    "float32",
    "float64",
    "float16",
    "int8",
    "uint8",
    "int16",
    "uint16",
    "int32",
    "uint32",
    "int64",
    "uint64",
    "bool",
)
ARRAYS = {
    **{f"a.{kind}": np.arange(300).reshape(3, 1, 100).astype(kind) for kind in TYPES},
    "scalar": np.float32(3.5).reshape(()),
    "empty": np.zeros((0, 4), "int64"),
    "turned": np.arange(12, dtype="float32").reshape(3, 4).T,
    "größe": np.ones(200, "float32"),
}


def graph(*nodes: onnx.NodeProto, initializers: tuple[TensorProto, ...] = ()) -> onnx.ModelProto:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    return helper.make_model(helper.make_graph([*nodes], "g", [x], [y], [*initializers]))


def parsed(content: bytes) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.ParseFromString(content)
    return model


def external(name: str) -> TensorProto:
    tensor = TensorProto(name=name, dims=[1], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="weights.bin")
    return tensor


IDENTITY = helper.make_node("Identity", ["x"], ["y"])


def test_tensors_written_here_are_those_that_onnx_reads():
    content = graph(IDENTITY, initializers=(numpy_helper.from_array(np.ones(2, "f"), "own"),)).SerializeToString()

    model = parsed(with_tensors(content, ARRAYS))

    assert model.graph.node[0].op_type == "Identity"
    found = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    assert list(found) == ["own", *ARRAYS]
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_references_say_types_and_sizes_and_hold_no_numbers():
    content = graph(IDENTITY).SerializeToString()

    places = {name: Place("memory/0", 64 * at) for at, name in enumerate(ARRAYS)}
    model = parsed(with_references(content, ARRAYS, places))

    for each in model.graph.initializer:
        told = {entry.key: entry.value for entry in each.external_data}
        assert (told["location"], int(told["offset"])) == ("memory/0", places[each.name].offset)
        assert int(told["length"]) == ARRAYS[each.name].nbytes
        assert tuple(each.dims) == ARRAYS[each.name].shape
        assert helper.tensor_dtype_to_np_dtype(each.data_type) == ARRAYS[each.name].dtype
        assert each.data_location == TensorProto.EXTERNAL
        assert not each.raw_data


def test_numbers_that_onnx_has_not_are_an_error():
    with pytest.raises(DeploymentError, match="'w' has numbers of type complex64"):
        with_tensors(b"", {"w": np.ones(2, "complex64")})


def places_of_files() -> dict[str, onnx.ModelProto]:
    """A tensor that lies in a file, wherever a graph can have one."""
    inner = graph(IDENTITY, initializers=(external("w"),)).graph
    sparse = onnx.SparseTensorProto(
        values=external("v"), indices=numpy_helper.from_array(np.zeros(1, "int64")), dims=[1]
    )
    sparse_graph, in_function = graph(IDENTITY), graph(IDENTITY)
    sparse_graph.graph.sparse_initializer.append(sparse)
    constant = helper.make_node("Constant", [], ["c"], value=external("c"))
    in_function.functions.append(helper.make_function("d", "f", [], ["c"], [constant], [helper.make_opsetid("", 20)]))
    return {
        "initializer": graph(IDENTITY, initializers=(external("w"),)),
        "constant": graph(constant, IDENTITY),
        "branch": graph(helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=graph(IDENTITY).graph)),
        "sparse": sparse_graph,
        "sparse constant": graph(helper.make_node("Constant", [], ["c"], sparse_value=sparse)),
        "function": in_function,
    }


@pytest.mark.parametrize("place", places_of_files())
def test_files_are_found_wherever_a_graph_names_them(place):
    assert names_files(places_of_files()[place].SerializeToString())


def test_a_graph_without_files_has_none():
    plain = graph(helper.make_node("Constant", [], ["location"], value_floats=[1.0, 2.0]), IDENTITY)

    assert not names_files(with_tensors(plain.SerializeToString(), ARRAYS))


def test_damaged_bytes_are_an_error_or_read_as_something_else():
    content = graph(IDENTITY).SerializeToString()
    random = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(content)
        for place in random.integers(len(content), size=3):
            damaged[place] = random.integers(256)
        try:
            names_files(bytes(damaged[: random.integers(1, len(content))]))
        except DeploymentError as error:
            assert "the graph is damaged" in str(error)  # noqa: PT017
