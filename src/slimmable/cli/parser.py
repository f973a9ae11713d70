"""Commands and their options. Nothing heavy is imported here: help must come at once."""

import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from slimmable import __version__

WIDTHS = "0.5, 0.25,0.5,1.0, 0.25:1.0:0.05, or a .json file of per-layer widths"

Options = Namespace


def parse(argv: Sequence[str]) -> tuple[str, Options]:
    """The command and its options.

    Raises:
        SystemExit: Help was asked for, or the arguments are wrong; both have been printed.
    """
    arguments = list(argv)
    parser = build_parser()
    if not arguments:
        parser.print_help(sys.stderr)
        raise SystemExit(2)
    # Changes may stand anywhere among the options, where a list of positional arguments may not.
    changes = [text for text in arguments if re.match(r"[A-Za-z_]\w*(\.\w+)*=", text)]
    if arguments[0] == "train":
        arguments = [text for text in arguments if text not in changes]
    parsed = parser.parse_args(arguments)
    options = parsed[parsed.command]
    if parsed.command == "train":
        options.changes = [*options.changes, *changes]
    return parsed.command, options


def build_parser() -> ArgumentParser:
    """The whole command line."""
    parser = ArgumentParser(
        prog="slimmable", version=__version__, description="One set of weights that runs at any width."
    )
    commands = parser.add_subcommands(dest="command")
    for name, (add, description) in COMMANDS.items():
        own = ArgumentParser(description=description)
        add(own)
        commands.add_subcommand(name, own, help=description)
    return parser


def _inspect(parser: ArgumentParser) -> None:
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="a network of this library, of torchvision or timm by its name, or module:function",
    )
    parser.add_argument("--all", action="store_true", help="instead of one: a table of many networks people have")
    parser.add_argument(
        "--match", metavar="PATTERN,...", help="of --all only those, by name or family: 'resnet*,vit_*'"
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="write the table of --all there, not to standard output")
    parser.add_argument("--resume", action="store_true", help="with --all: keep the sound rows of the --json file")
    parser.add_argument("--input-size", metavar="C,H,W", help="size of one input, if not the network's own")
    parser.add_argument("--min-ratio", type=float, default=0.25, metavar="R", help="smallest multiple of every width")
    parser.add_argument("--max-ratio", type=float, default=1.0, metavar="R", help="largest multiple of every width")
    parser.add_argument("--divisor", type=int, default=8, metavar="N", help="widths are multiples of it")
    parser.add_argument(
        "--exclude", metavar="PATTERN,...", help="modules that keep their width, such as features.18,head.*"
    )
    parser.add_argument(
        "--json", metavar="FILE", help="write everything found there too; with --all after each network"
    )


def _train(parser: ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="a name (see slimmable recipes) or a .yaml file")
    parser.add_argument("changes", nargs="*", default=[], metavar="key=value", help="changes, such as train.epochs=10")
    parser.add_argument("--folder", metavar="DIR", help="where to keep the run; runs/RECIPE if not given")
    parser.add_argument("--resume", action="store_true", help="go on where the run in the folder stopped")
    _device(parser)


def _calibrate(parser: ArgumentParser) -> None:
    _run(parser)
    parser.add_argument("--widths", required=True, metavar="LIST", help=WIDTHS)
    parser.add_argument(
        "--samples", type=_optional(int), metavar="N", help="training samples; the recipe's if not given"
    )
    _root(parser)
    _device(parser)


def _eval(parser: ArgumentParser) -> None:
    _run(parser)
    parser.add_argument("--widths", metavar="LIST", help=f"{WIDTHS}; the recipe's if not given")
    parser.add_argument(
        "--calibrate", action="store_true", help="first measure statistics at widths that have none (not kept)"
    )
    parser.add_argument("--json", metavar="FILE", help="write figures and costs there as JSON")
    parser.add_argument("--csv", metavar="FILE", help="write figures and costs there as a table")
    _root(parser)
    _device(parser)


def _extract(parser: ArgumentParser) -> None:
    _run(parser)
    parser.add_argument("--width", required=True, metavar="WIDTH", help="0.5, or a .json file of per-layer widths")
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="the .safetensors file to write")
    parser.add_argument(
        "--fold-batch-norm", action="store_true", help="merge batch norms into the layers before them, for inference"
    )


def _upscale(parser: ArgumentParser) -> None:
    _run(parser)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files")
    parser.add_argument("--width", required=True, metavar="WIDTH", help="0.5, or a .json file of per-layer widths")
    parser.add_argument(
        "-o", "--output", required=True, metavar="OUT", help="the file to write for one image, or a folder for several"
    )
    parser.add_argument("--tile", type=int, default=256, metavar="N", help="side of the tiles of a large image")
    _device(parser)


def _export(parser: ArgumentParser) -> None:
    _run(parser)
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="the .slim file to write")
    parser.add_argument("--widths", required=True, metavar="LIST", help=WIDTHS)
    parser.add_argument(
        "--runtime", default="onnx", metavar="NAME,...", help="what is to run it: onnx, openvino, executorch, torch"
    )
    parser.add_argument(
        "--standalone",
        choices=["onnx", "openvino", "executorch", "torch-export", "aot-inductor", "safetensors"],
        help="instead: an ordinary file of the one width of --widths",
    )
    parser.add_argument(
        "--bench", metavar="FILE", help="JSON of slimmable bench: the file tells the latencies measured there"
    )
    parser.add_argument(
        "--tables", default="float32", choices=["float32", "float16"], help="float16 halves what one more width costs"
    )
    parser.add_argument(
        "--store",
        default="float32",
        choices=["float32", "int8"],
        help="int8: weights in eight bits, for onnx, openvino",
    )
    parser.add_argument(
        "--samples", type=int, default=200, metavar="N", help="of --store int8: training examples that tell the ranges"
    )
    _root(parser)


def _bench(parser: ArgumentParser) -> None:
    parser.add_argument("artifact", metavar="FILE", help="the .slim file")
    parser.add_argument("--runtime", metavar="NAME,...", help="what runs it; all that it was written for if not given")
    parser.add_argument("--batch", default="1", metavar="N,...", help="examples in a run")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads of a run")
    parser.add_argument("--rounds", type=int, default=30, metavar="N", help="times each is timed")
    parser.add_argument("--memory", action="store_true", help="measure memory too, each width in its own process")
    parser.add_argument("--json", metavar="FILE", help="write the figures there as JSON")
    parser.add_argument("--plot", metavar="FILE", help="draw latency over cost there, as SVG")


def _profile(parser: ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a network by its name, as inspect takes it, or a run's folder")
    parser.add_argument("-o", "--output", metavar="FILE", help="the .json file to write; a run's is RUN/latency.json")
    parser.add_argument("--resume", action="store_true", help="go on where an interrupted profile stopped")
    parser.add_argument("--bench", metavar="FILE", help="time nothing: fit what slimmable bench wrote there as JSON")
    parser.add_argument("--runtime", metavar="NAME", help="of --bench, the runtime whose times count")
    parser.add_argument("--widths", metavar="LIST", help=f"fit these, not random ones: {WIDTHS}")
    parser.add_argument("--count", type=int, default=200, metavar="N", help="random widths to fit the model to")
    parser.add_argument("--held-out", type=int, default=50, metavar="N", help="random widths to state its error on")
    parser.add_argument("--rounds", type=int, default=15, metavar="N", help="times each width is timed")
    parser.add_argument("--threads", type=_optional(int), metavar="N", help="threads of torch")
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="examples in a forward pass")
    parser.add_argument(
        "--clock", default="wall", choices=["wall", "cpu"], help="cpu: time of one thread, on a machine with other work"
    )
    parser.add_argument("--input-size", metavar="C,H,W", help="size of one input, if not the network's own")
    for name, kind, what in (
        ("--min-ratio", float, "smallest multiple of every width, of a MODEL"),
        ("--max-ratio", float, "largest multiple of every width, of a MODEL"),
        ("--divisor", int, "widths of a MODEL are multiples of it"),
    ):
        parser.add_argument(name, type=_optional(kind), metavar="N" if kind is int else "R", help=what)
    _device(parser)


def _search(parser: ArgumentParser) -> None:
    _run(parser)
    parser.add_argument(
        "--budget",
        required=True,
        action="append",
        metavar="COST<=NUMBER",
        help="macs<=50M, parameters<=1M, memory<=2MiB, latency<=4ms; several have to be kept together",
    )
    parser.add_argument(
        "--method",
        default="evolution",
        choices=["pareco-posterior", "ows", "aows", "nsga2", "evolution", "greedy", "random"],
        help="how to search",
    )
    parser.add_argument("--trials", type=int, default=200, metavar="N", help="most widths that are evaluated")
    parser.add_argument("--samples", type=int, default=500, metavar="N", help="training samples that calibrate each")
    parser.add_argument("--latency", metavar="FILE", help="latency model or .csv table; RUN/latency.json if not given")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="determines every draw")
    parser.add_argument(
        "--json", metavar="FILE", help="write what was found there; RUN/search-METHOD.json if not given"
    )
    _root(parser)
    _device(parser)


def _platforms(parser: ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a .yaml file: run, cost, method, platforms and their budgets")
    parser.add_argument("--json", metavar="FILE", help="write what was found there; FILE's name in .json if not given")
    _root(parser)
    _device(parser)


def _serve(parser: ArgumentParser) -> None:
    from slimmable.runtime.server.options import add_options

    add_options(parser)


def _recipes(parser: ArgumentParser) -> None:
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help="show this one, complete, as YAML")


def _run(parser: ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="folder of a finished run")


def _root(parser: ArgumentParser) -> None:
    parser.add_argument("--root", metavar="DIR", help="where the data lie now, if not where they lay during training")


def _device(parser: ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")


def _optional(kind: type) -> Any:
    return kind | None


COMMANDS: dict[str, tuple[Callable[[ArgumentParser], None], str]] = {
    "inspect": (_inspect, "say what of a network can vary in width, and what cannot and why"),
    "train": (_train, "train as a recipe says, calibrate, evaluate"),
    "calibrate": (_calibrate, "measure batch-norm statistics of a trained network at further widths"),
    "eval": (_eval, "show accuracy and costs over a list of widths"),
    "extract": (_extract, "write one sub-network as a plain model"),
    "upscale": (_upscale, "make images larger with a trained network, at one width"),
    "export": (_export, "write one file that runs at several widths, without torch"),
    "bench": (_bench, "time every width of an exported file on this machine"),
    "profile": (_profile, "time many widths on this device, and fit a model that tells any other's latency"),
    "search": (_search, "find the best widths of a trained network within budgets"),
    "platforms": (_platforms, "find the widths of one network for several platforms"),
    "serve": (_serve, "answer requests over HTTP, at the width that keeps to a latency"),
    "recipes": (_recipes, "list all recipes, or show one"),
}
"""Every command: its options, and what it does."""
