"""`liger-compile demo`: one unpatched transformers model, trained eager, by torch.compile and by ours, side by side.

Real text that every machine has (the standard library's sources), random weights, one seed. Prints a table and the
report, and draws the loss curves.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from liger_compile.demo_run import VARIANTS
from liger_compile.demo_text import save_spec, token_stream
from liger_compile.tiny_models import FAMILIES

# Two cores finish the three runs and two cold compilations in under three minutes.
CPU_SPEC: dict[str, Any] = {
    "device": "cpu",
    "dtype": "float32",
    "batch": 8,
    "sequence": 128,
    "steps": 50,
    "warmup": 3,
    "learning_rate": 1e-3,
    "text_bytes": 3_000_000,
    "config": {
        "vocab_size": 8192,
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 32,
    },
}
CUDA_SPEC: dict[str, Any] = {
    "device": "cuda",
    "dtype": "bfloat16",
    "batch": 8,
    "sequence": 1024,
    "steps": 120,
    "warmup": 5,
    "learning_rate": 3e-4,
    "text_bytes": 12_000_000,
    "config": {
        "vocab_size": 32768,
        "hidden_size": 1024,
        "intermediate_size": 2816,
        "num_hidden_layers": 12,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "head_dim": 64,
        "max_position_embeddings": 1024,
    },
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the demo's options on a parser (of the demo alone, or of a subcommand)."""
    parser.add_argument("--model", default="llama", choices=FAMILIES, metavar="FAMILY", help=", ".join(FAMILIES))
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    parser.add_argument("--steps", type=int, help="training steps of each run")
    parser.add_argument("--rewrite", default="auto", choices=("auto", "all", "none"), help="as the backend's option")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("liger-demo"), help="folder for curves, numbers and report")


def make_spec(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """What the three runs have in common, with the text tokenised into a file of the folder."""
    import torch

    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    spec = dict(CUDA_SPEC if device == "cuda" else CPU_SPEC)
    spec["config"] = {**spec["config"], **family_overrides(arguments.model, spec["config"])}
    if arguments.steps is not None:
        spec["steps"] = max(arguments.steps, spec["warmup"] + 1)
    tokens, line = token_stream(spec["text_bytes"], spec["config"]["vocab_size"])
    print(f"text      {line}")
    torch.save(tokens, folder / "tokens.pt")
    return {
        **spec,
        "model": arguments.model,
        "seed": arguments.seed,
        "options": {"rewrite": arguments.rewrite},
        "tokens": str(folder / "tokens.pt"),
        "report": str(arguments.out / "report.json"),
    }


def family_overrides(family: str, config: dict[str, Any]) -> dict[str, Any]:
    """What a family needs beside the sizes, for the few whose structure depends on them."""
    if family == "deepseek_v3":
        return {"head_dim": None, "num_key_value_heads": config["num_attention_heads"]}
    return {}


def progress_bar(steps: int, variant: str) -> Any:
    """A bar over the steps of a run; in a log that is not a terminal it moves seldom."""
    from tqdm import tqdm

    interval = 0.1 if sys.stderr.isatty() else 10.0
    return tqdm(total=steps, desc=f"{variant:<13}", unit="step", ascii=" -#", ncols=96, mininterval=interval)


def run_variant(variant: str, spec: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Train one variant in a process of its own under a progress bar; its losses and its summary."""
    # Without the opt-in, which would make torch.compile ours; with a compiler cache of its own, so that the first step
    # shown is a first one.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LIGER_COMPILE")}
    environment["TORCHINDUCTOR_CACHE_DIR"] = str(folder / f"cache-{variant}")
    command = [sys.executable, "-m", "liger_compile.demo_run", str(folder / "spec.json"), variant]
    losses: list[float] = []
    result: dict[str, Any] = {}
    with (
        open(folder / "stderr.txt", "w+") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment) as child,
        progress_bar(spec["steps"], variant) as bar,
    ):
        bar.set_postfix_str("first step" if variant == "eager" else "compiling")
        assert child.stdout is not None
        for line in child.stdout:
            message = json.loads(line) if line.startswith("{") else {}
            result = message.get("done", result)
            if "loss" in message:
                losses.append(message["loss"])
                bar.set_postfix_str(f"loss {losses[-1]:.3f}", refresh=False)
                bar.update()
        child.wait()
        errors.seek(0)
        if child.returncode != 0:
            raise RuntimeError(f"the run {variant!r} exited with {child.returncode}\n{errors.read()[-4000:]}")
    return {"losses": losses, **result}


def table(results: dict[str, dict[str, Any]], device: str) -> str:
    """The runs side by side, one a line."""
    memory = "GPU memory" if device == "cuda" else "RSS growth"
    rows = [["", "tokens/s", f"peak {memory}", "largest loss difference", "first step"]]
    for variant, result in results.items():
        differences = [abs(a - b) for a, b in zip(result["losses"], results["eager"]["losses"], strict=True)]
        rows.append(
            [
                variant,
                f"{result['tokens_per_second']:,.0f}",
                "unknown" if result["memory_bytes"] is None else f"{result['memory_bytes'] / 2**20:,.0f} MiB",
                "-" if variant == "eager" else f"{max(differences):.2g}",
                f"{result['first_step_seconds']:.1f} s",
            ]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        row[0].ljust(widths[0])
        + "".join("  " + cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        for row in rows
    )


def draw(results: dict[str, dict[str, Any]], path: Path, title: str) -> None:
    """Loss curves of the runs, drawn over each other, and below them the differences from eager."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    styles = {"eager": ("0.6", 4.0, "-"), "torch.compile": ("tab:blue", 1.8, "-"), "ours": ("tab:orange", 1.5, "--")}
    figure, (curves, differences) = pyplot.subplots(
        2, 1, sharex=True, figsize=(7.5, 5.5), height_ratios=(3, 1), layout="constrained"
    )
    reference = results["eager"]["losses"]
    for variant, result in results.items():
        color, width, style = styles[variant]
        curves.plot(result["losses"], color=color, linewidth=width, linestyle=style, label=variant)
        if variant != "eager":
            difference = [abs(a - b) for a, b in zip(result["losses"], reference, strict=True)]
            differences.plot(difference, color=color, linewidth=1.2, linestyle=style)
    curves.set(title=title, ylabel="loss")
    curves.legend(frameon=False)
    differences.set(xlabel="step", ylabel="|loss - eager|")
    differences.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    for axes in (curves, differences):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def describe(spec: dict[str, Any]) -> str:
    """The model and the training in two lines."""
    config = spec["config"]
    return (
        f"model     {spec['model']}, {config['num_hidden_layers']} layers, hidden {config['hidden_size']}, "
        f"vocabulary {config['vocab_size']}, {spec['dtype']} on {spec['device']}, unpatched, random weights\n"
        f"training  {spec['steps']} steps of {spec['batch']} x {spec['sequence']} tokens, AdamW, seed {spec['seed']}, "
        "each run in its own process"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the demo with parsed arguments; returns the exit status."""
    begin = time.perf_counter()
    arguments.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="liger-demo-") as temporary:
        folder = Path(temporary)
        spec = make_spec(arguments, folder)
        save_spec(spec, folder)
        print(describe(spec), end="\n\n", flush=True)
        for variant in VARIANTS:
            results[variant] = run_variant(variant, spec, folder)
    title = f"{spec['model']}, {spec['steps']} steps, {spec['dtype']} on {spec['device']}"
    draw(results, arguments.out / "loss.png", title)
    (arguments.out / "results.json").write_text(json.dumps({"spec": spec, "results": results}, indent=1))
    print(f"\n{table(results, spec['device'])}\n")
    print("tokens/s: median step after warm-up. Peak: above weights and optimizer state, during a step.")
    print("First step: with compilation, from an empty cache.\n")
    print(results["ours"]["report"])
    names = ", ".join(str(arguments.out / name) for name in ("loss.png", "results.json", "report.json"))
    print(f"\nwrote {names}; {time.perf_counter() - begin:.0f} s in all")
    return 0


def main(argv: list[str] | None = None) -> int:
    """The demo as a command of its own."""
    parser = argparse.ArgumentParser(prog="liger-compile demo", description=__doc__)
    add_arguments(parser)
    return run(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
