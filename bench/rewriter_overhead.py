"""What rewriting costs at compile time: import, match and apply on the graph of a 32-layer Llama.

    python bench/rewriter_overhead.py --layers 32

The graph is the one Dynamo makes; its size in nodes does not depend on the width, so the model is narrow.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.fx._lazy_graph_module import _make_graph_module, _use_lazy_graph_module

from _timing import format_table, machine, timing_of, write_results
from liger_compile import _rewriter
from liger_compile.rewriting import Settings, rewrite_module
from liger_compile.tiny_models import tiny_batch, tiny_model


def milliseconds(function: Callable[..., Any], *arguments: Any) -> float:
    """Of this thread's processor time: the work is serial, and what else the machine does is not its cost."""
    begin = time.thread_time()
    function(*arguments)
    return (time.thread_time() - begin) * 1e3


def copy_of(gm: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """A copy that, like Dynamo's own module, puts off its recompilation until someone calls it."""
    with _use_lazy_graph_module(True):
        return _make_graph_module(gm, copy.deepcopy(gm.graph))


def measure(gm: torch.fx.GraphModule, repetitions: int) -> dict[str, Any]:
    """Times of the parts over fresh copies of the graph, and of the whole rewrite."""
    settings = Settings(rewrite="all", strict=True)
    times: dict[str, list[float]] = {"import": [], "match": [], "whole": []}
    for _ in range(repetitions + 2):
        graph = _rewriter.import_graph(gm)
        times["import"].append(milliseconds(_rewriter.import_graph, gm, False))
        times["match"].append(milliseconds(_rewriter.rewrite, graph))
        fresh = copy_of(gm)
        times["whole"].append(milliseconds(rewrite_module, fresh, settings))
    report = rewrite_module(copy_of(gm), settings)
    timings = {name: vars(timing_of(values[2:])) for name, values in times.items()}
    return {"nodes": len(gm.graph.nodes), "counts": dict(report.counts), "timings": timings}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="llama")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--repetitions", type=int, default=10)
    parser.add_argument("--json", type=Path, default=Path("bench/results/rewriter_overhead.json"))
    arguments = parser.parse_args()

    model = tiny_model(arguments.model, num_hidden_layers=arguments.layers, use_cache=False)
    results: list[dict[str, Any]] = []

    def backend(gm: torch.fx.GraphModule, example_inputs: list[torch.Tensor]) -> Callable[..., Any]:
        # Here, while Dynamo's context lives, as in real use.
        results.append(measure(gm, arguments.repetitions))
        return gm.forward

    torch.compile(model, backend=backend)(**tiny_batch(model.config))
    for result in results:
        print(f"{arguments.model}, {arguments.layers} layers: {result['nodes']} nodes, {result['counts']}\n")
        rows = [["part", "median", "10th percentile", "90th percentile"]]
        for name, timing in result["timings"].items():
            rows.append([name, *(f"{timing[key]:.2f} ms" for key in ("median", "low", "high"))])
        print(format_table(rows))
    write_results(arguments, machine("cpu"), results)


if __name__ == "__main__":
    main()
