"""The command `liger-compile`."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from liger_compile._version import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # The demo and the drivers of bench/ parse what follows their name themselves.
    if arguments[:1] == ["demo"]:
        from liger_compile import demo

        return int(demo.main(arguments[1:]) or 0)
    if arguments[:1] == ["bench"]:
        return _bench(arguments[1:])
    parsed = _parser().parse_args(arguments)
    status: int = parsed.run(parsed)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="liger-compile", description="Rewrite unpatched models to fused native kernels, under torch.compile."
    )
    parser.add_argument("--version", action="version", version=f"liger-compile {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    commands.add_parser("demo", help="train a small transformers model eager, compiled and rewritten, side by side")

    explain = commands.add_parser("explain", help="print what would be rewritten in a model, and why the rest is not")
    explain.add_argument("model", metavar="MODEL_OR_FAMILY", help="a transformers family, or a folder with config.json")
    explain.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    explain.add_argument("--device", default="cpu")
    explain.add_argument("--checkpointing", action="store_true", help="with activation checkpointing")
    explain.add_argument("--save", metavar="PATH", help="write the report as .txt or .json")
    explain.set_defaults(run=_explain)

    env = commands.add_parser("env", help="print versions, built parts and environment variables")
    env.add_argument("--json", action="store_true")
    env.set_defaults(run=_env)

    commands.add_parser("bench", help="list or run the benchmarks of a checkout")
    return parser


def _explain(parsed: argparse.Namespace) -> int:
    import torch

    from liger_compile.explaining import explain
    from liger_compile.tiny_models import tiny_batch

    try:
        model = _model(parsed.model, getattr(torch, parsed.dtype), parsed.device)
    except ValueError as error:
        return _fail(str(error))
    if parsed.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    report = explain(model, **tiny_batch(model.config, device=parsed.device))
    print(report)
    if parsed.save:
        try:
            report.save(parsed.save)
        except (OSError, ValueError) as error:
            return _fail(str(error))
    return 0


def _model(name: str, dtype: Any, device: str) -> Any:
    """A two-layer model with random weights: tiny for a family, else of the widths of a folder's config.json."""
    from liger_compile.tiny_models import FAMILIES, random_model, tiny_model

    if name in FAMILIES:
        return tiny_model(name, dtype, device)
    if not (Path(name) / "config.json").is_file():
        raise ValueError(f"expected a folder with config.json or one of {', '.join(FAMILIES)}; actual {name!r}")
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(name)
    config.num_hidden_layers = min(2, config.num_hidden_layers)
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[: config.num_hidden_layers]
    return random_model(config, dtype, device)


def _env(parsed: argparse.Namespace) -> int:
    from liger_compile.env_info import collect, format_info

    sections = collect()
    print(json.dumps(sections, indent=2) if parsed.json else format_info(sections))
    return 0


def _bench(arguments: Sequence[str]) -> int:
    """`liger-compile bench` lists the drivers, `liger-compile bench NAME ...` runs one."""
    # Through links: a build folder's package links to the sources.
    # The checkout that this is run in, also where an installed package runs it, else the one that this file is of.
    checkouts = (Path.cwd(), Path(os.path.realpath(__file__)).parents[2])
    folder = next((c / "bench" for c in checkouts if (c / "bench" / "_timing.py").exists()), checkouts[1] / "bench")
    # The folder's other files are what the drivers share.
    drivers = {path.stem: path for path in sorted(folder.glob("*.py")) if "__main__" in path.read_text()}
    if not drivers:
        return _fail("bench: the benchmarks are not part of an installed package; run this in a checkout")
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: liger-compile bench NAME [ARGUMENT ...]\n\n" + "\n".join(f"  {name}" for name in drivers))
        return 0
    name, *rest = arguments
    if name not in drivers:
        return _fail(f"bench: expected one of {', '.join(drivers)}; actual {name!r}")
    return subprocess.run([sys.executable, str(drivers[name]), *rest], check=False).returncode


def _fail(message: str) -> int:
    print(f"liger-compile: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
