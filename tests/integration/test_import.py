"""Importing graphs that Dynamo made: the text form, the meta, and that canonical ops compute what their nodes do."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from canonical_values import check
from small_models import block
from torch import Tensor

from liger_compile import _rewriter
from liger_compile.tiny_models import tiny_model


class Checked(torch.fx.Interpreter):
    """Runs a graph and compares every node with its canonical reading while running, before later writes."""

    def __init__(self, gm: torch.fx.GraphModule) -> None:
        super().__init__(gm, garbage_collect_values=False)
        self.graph_text = str(_rewriter.import_graph(gm))
        self.canonical = _rewriter.canonical_graph(_rewriter.parse_graph(self.graph_text))
        self.values: dict[str, Any] = {}
        self.symbols: dict[str, int] = {}
        self.checked: dict[str, str] = {}

    def run_node(self, n: torch.fx.Node) -> Any:
        value = super().run_node(n)
        self.values[n.name] = value
        example = n.meta.get("example_value")
        if isinstance(example, torch.SymInt):
            self.symbols[str(example.node.expr)] = value
        if isinstance(value, Tensor) and not (n.op == "call_method" and n.target.endswith("_")):
            text = self.canonical[n.name]
            if check(text, value, self.values, self.symbols):
                self.checked[n.name] = text
        return value


class Capture:
    """A backend that checks each graph as it is called; no gradients, as nodes are compared outside the graph too."""

    def __init__(self) -> None:
        self.graphs: list[torch.fx.GraphModule] = []
        self.texts: list[str] = []
        self.runs: list[Checked] = []

    def __call__(self, gm: torch.fx.GraphModule, example_inputs: list[Any]) -> Callable[..., Any]:
        self.graphs.append(gm)
        graph = _rewriter.import_graph(gm)
        self.texts.append(str(graph))
        assert graph.node_names == [node.name for node in gm.graph.nodes]
        assert len(graph) == len(gm.graph.nodes)
        assert str(_rewriter.parse_graph(self.texts[-1])) == self.texts[-1]
        assert_meta_is_read(gm, self.texts[-1])
        checked = Checked(gm)
        self.runs.append(checked)
        return checked.run


def capture(function: Callable[..., Any], *args: Any, dynamic: bool | None = None, **kwargs: Any) -> Capture:
    backend = Capture()
    torch.compile(function, backend=backend, dynamic=dynamic)(*args, **kwargs)
    assert backend.runs
    return backend


def size_text(size: Any) -> str:
    return str(size.node.expr) if isinstance(size, torch.SymInt) else str(size)


def assert_meta_is_read(gm: torch.fx.GraphModule, text: str) -> None:
    """Every node with an `example_value` has its dtype, sizes, strides and requires_grad in the text."""
    lines = dict(re.findall(r"^%(\w+)(.*?) = ", text, re.MULTILINE))
    for node in gm.graph.nodes:
        example, line = node.meta.get("example_value"), lines.get(node.name, "")
        if isinstance(example, Tensor):
            shape = ", ".join(size_text(size) for size in example.shape)
            start = f": {str(example.dtype).removeprefix('torch.')}[{shape}]"
            assert line.startswith(start), (node, line)
            rest = line.removeprefix(start)
            assert rest.endswith(" grad") == example.requires_grad, (node, line)
            if rest.startswith("{"):
                strides = ", ".join(size_text(stride) for stride in example.stride())
                assert rest.startswith("{" + strides + "}"), (node, line)
            else:
                assert example.is_contiguous(), (node, line)
        elif isinstance(example, int | torch.SymInt):
            assert line == f": size({size_text(example)})", (node, line)
        else:
            assert line == "", (node, line)


def share_understood(run: Checked) -> float:
    tensors = [name for name, value in run.values.items() if isinstance(value, Tensor)]
    inputs = [name for name in tensors if run.canonical[name] == "input()"]
    return len(run.checked) / (len(tensors) - len(inputs))


@pytest.mark.parametrize(
    ("family", "share"),
    [("llama", 0.95), ("phi3", 0.95), ("gemma2", 0.95), ("qwen3", 0.95), ("gemma3_text", 0.95), ("gpt_oss", 0.7)],
)
def test_canonical_ops_of_models_compute_what_their_nodes_do(family: str, share: float) -> None:
    model = tiny_model(family, torch.bfloat16)
    ids = torch.randint(3, 128, (2, 16))
    backend = capture(model, input_ids=ids, labels=ids)
    assert share_understood(backend.runs[0]) > share
    assert " @ model.layers.1.mlp" in backend.texts[0]
    assert "modeling_" in backend.texts[0]


def test_symbolic_sizes_are_expressions() -> None:
    model = tiny_model("llama", torch.bfloat16)
    ids = torch.randint(3, 128, (2, 16))
    backend = capture(model, input_ids=ids, labels=ids, dynamic=True)
    assert re.search(r"bfloat16\[s\d+, 4, s\d+, 16\]\{64\*s\d+, 16, 64, 1\}", backend.texts[0])
    assert ": size(s" in backend.texts[0]
    assert share_understood(backend.runs[0]) > 0.9


def test_symbolic_slices() -> None:
    def function(x: Tensor) -> list[Tensor]:
        return [
            x[:, :-1],
            x[:, 1:],
            x[:-2],
            x[..., 1:4],
            x[:, None],
            x.view(x.shape[0], -1, 2),
            x[:, : x.shape[1] // 2],
        ]

    torch._dynamo.reset()
    backend = capture(function, torch.randn(6, 10, 8), dynamic=True)
    texts = list(backend.runs[0].checked.values())
    assert sum(text.startswith("slice(") for text in texts) >= 4, texts
    assert not any("6" in text or "10" in text for text in texts), texts


def test_autocast_regions_and_grad_mode_are_nodes() -> None:
    model = block()

    def function(x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = model(x)
        with torch.no_grad():
            z = y.float() * 1.0
        return y + z

    backend = capture(function, torch.randn(4, 32))
    text = backend.texts[0]
    assert 'torch.amp.autocast_mode._enter_autocast("cpu", bfloat16, True, None)' in text
    assert "torch.amp.autocast_mode._exit_autocast(%_enter_autocast)" in text
    assert "torch._C._set_grad_enabled(False)" in text
    canonical = backend.runs[0].canonical
    assert "identity(" not in next(text for name, text in canonical.items() if name == "z")


def _checkpointed(body: Callable[[Tensor], Tensor]) -> str:
    def function(x: Tensor) -> Tensor:
        return torch.utils.checkpoint.checkpoint(body, x, use_reentrant=False)

    texts: list[str] = []

    def backend(gm: torch.fx.GraphModule, example_inputs: list[Any]) -> Any:
        texts.append(str(_rewriter.import_graph(gm)))
        for name, child in gm.named_children():
            assert str(_rewriter.import_graph(child)).startswith("%"), name
        return gm

    torch.compile(function, backend=backend)(torch.randn(4, requires_grad=True))
    return next(line for line in texts[0].splitlines() if "tag_activation_checkpoint" in line)


def test_checkpoint_bodies_that_write_to_no_input_are_pure() -> None:
    def pure(x: Tensor) -> Tensor:
        fresh = torch.sin(x).exp()
        return fresh.mul_(2)

    line = _checkpointed(pure)
    assert "torch.ops.higher_order.tag_activation_checkpoint(%wrap_body_0, " in line
    assert not line.endswith(" mutates")


def test_writes_stay_visible() -> None:
    def function(x: Tensor, y: Tensor) -> Tensor:
        copy = x.clone()
        copy.add_(1)
        copy[0] = 5
        y += copy
        torch.relu_(copy)
        F.silu(copy, inplace=True)
        return copy * 2 + x + y

    backend = capture(function, torch.randn(4), torch.randn(4))
    run = backend.runs[0]
    assert run.canonical["copy"] == "opaque()"
    writes = [name for name, text in run.canonical.items() if text == "opaque()"]
    assert len(writes) == 6


@torch.library.custom_op("liger_test_import::double_", mutates_args=("x",))
def double_(x: Tensor) -> None:
    x.mul_(2)


@torch.library.custom_op("liger_test_import::twice", mutates_args=())
def twice(x: Tensor) -> Tensor:
    return x * 2


@twice.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch._dynamo.allow_in_graph
def user_function(x: Tensor) -> Tensor:
    return x + 1


def test_targets_are_named_and_schemas_tell_writes() -> None:
    def function(x: Tensor) -> Tensor:
        double_(x)
        y = torch.ops.aten.add.Tensor(twice(x), 1)
        return user_function(torch.special.expit(torch.functional.split(y, 2)[0]))

    text = capture(function, torch.randn(4)).texts[0]
    assert "liger_test_import::double_(%l_x_) mutates" in text
    assert "liger_test_import::twice(%l_x_)\n" in re.sub("  @.*", "", text)
    assert "aten::add.Tensor(%" in text
    assert "torch.split(%" in text
    assert "torch.special.expit(%" in text
    assert re.search(r"test_import\.user_function\(%\w+\) mutates", text)


def test_modules_are_pure_only_where_they_are_known() -> None:
    class Unknown(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    root = torch.nn.ModuleDict({"a": torch.nn.Linear(4, 4), "b": torch.nn.ReLU(inplace=True), "c": Unknown()})
    graph = torch.fx.Graph()
    value = graph.placeholder("x")
    for name in root:
        value = graph.call_module(name, (value,))
    graph.call_module("missing", (value,))
    graph.output(value)
    module = torch.fx.GraphModule(torch.nn.Module(), torch.fx.Graph())
    for name, child in root.items():
        module.add_module(name, child)
    module.graph = graph
    lines = str(_rewriter.import_graph(module)).splitlines()
    assert [line.endswith(" mutates") for line in lines] == [False, False, True, True, True, False]
    assert lines[1] == "%a = module:a(%x)"


def test_odd_graphs_never_raise() -> None:
    class Strange:
        __name__ = "strange"

        def __call__(self, *args: Any) -> None: ...

        def __str__(self) -> str:
            raise RuntimeError("no text")

    class Subclass(Tensor):
        pass

    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    x.meta["example_value"] = Strange()
    sparse = graph.placeholder("sparse")
    sparse.meta["example_value"] = torch.eye(2).to_sparse()
    subclass = graph.placeholder("subclass")
    subclass.meta = {"example_value": torch.randn(2).as_subclass(Subclass), "stack_trace": 3, "nn_module_stack": []}
    call = graph.call_function(Strange(), (x,), {"big": 10**30, "mapping": {"key": sparse}, "z": 1j})
    call.meta["stack_trace"] = 'File "broken'
    call.meta["nn_module_stack"] = {"a": ("L['self'].layers[3]._modules['odd key'].x", None)}
    graph.call_function(lambda value: value, (call,))
    graph.output((call, subclass))
    imported = _rewriter.import_graph(torch.fx.GraphModule(torch.nn.Module(), graph))
    text = str(imported)
    assert "%x = placeholder()\n%sparse = placeholder()\n%subclass = placeholder()\n" in text
    assert '(%x, big=<1000000000000000000000000000000>, mapping=[("key", %sparse)], z=<complex>) mutates' in text
    assert "  @ layers.3.oddkey.x\n" in text
    assert str(_rewriter.parse_graph(text)) == text
    assert _rewriter.canonical_graph(imported)["subclass"] == "input()"


def test_only_a_graph_module_is_accepted() -> None:
    with pytest.raises(AttributeError, match="graph"):
        _rewriter.import_graph(3)
    with pytest.raises(ValueError, match="line 1: expected '='"):
        _rewriter.parse_graph("%x f()")


def _spellings(x: Tensor, y: Tensor, m: Tensor, i: Tensor, w: Tensor, labels: Tensor) -> list[Tensor]:
    a, b = x.chunk(2, -1)
    p, q, r = torch.split(x, [1, 2, 5], dim=-1)
    u = torch.unbind(x, 1)
    flat = x.reshape(-1, 8)
    return [
        torch.add(x, y, alpha=1), torch.add(x, 3, alpha=2), torch.sub(x, y), torch.rsub(x, 1), 1 - x, x.mul(2),
        x / y, 1 / x, torch.div(x, y), torch.true_divide(x, 2), x**2, 2**x, torch.square(x), x.pow(3), -x,
        torch.clamp(x, 0, 1), x.clamp(max=0.5), x.clamp_min(0.1), torch.maximum(x, y), torch.min(x, y), torch.relu(x),
        torch.where(m, x, y), x.where(m, y), x.masked_fill(m, -1.0), torch.where(m, x, 0.0), m & ~m, m | (x > 0),
        x <= y, x.eq(y), torch.logical_and(m, x > 0), x.abs().sqrt(), x.abs().rsqrt(), x.abs().log1p(), x.sigmoid(),
        F.logsigmoid(x), F.silu(x), F.gelu(x), F.gelu(x, approximate="tanh"), x.mean(-1, True), x.mean(),
        x.sum((0, -1)),
        torch.sum(x, dim=1, keepdim=True), x.logsumexp(-1), F.softmax(x, -1), F.log_softmax(x, dim=1), i.cumsum(-1),
        x @ y.mT, torch.bmm(x, y.transpose(1, 2)), F.linear(x, w), F.linear(x, w, w[:, 0]), torch.cat([x, y], -1),
        torch.cat((torch.empty(0), x), 1), torch.cat([x, y[..., :0]], -1), torch.stack((x, y), -1),
        torch.stack([x, y]),
        a, b, p, q, r, u[1], x[0], x[:, -1], x[..., 2:], x[..., ::2], x[:, :-1], x[None], x[:, None, :, None],
        x.narrow(-1, 2, 3), x.select(1, 2), x.unsqueeze(-1), flat, flat.unflatten(0, (2, 3)), x.flatten(1),
        x.permute(2, 0, 1),
        x.T, x.mT, torch.movedim(x, -1, 0), x.swapaxes(0, 2), w.t(), w[0].expand(3, 8), w[0].expand_as(x),
        x.repeat(1, 1, 1),
        x.to(torch.bfloat16), x.double(), x.type_as(i), x.to(i), x.type(torch.float16), x.float(), x.contiguous(),
        x.clone(),
        x * 1.0, x / 1, x - 0, i + 0, x + 0, F.dropout(x, 0.0), F.dropout(x, 0.5, training=False),
        F.embedding(i, w[:3]),
        w[i], x.gather(-1, i.unsqueeze(-1).expand(2, 3, 8) % 2), F.pad(i, (0, 1), value=-100), F.pad(x, (0, 0)),
        F.layer_norm(x, (8,), w[0], w[1], 1e-3), F.layer_norm(x, (3, 8)), F.rms_norm(x, (8,), w[0], 1e-3),
        F.scaled_dot_product_attention(x, y, x, is_causal=True, scale=0.3), F.cross_entropy(flat, labels),
        F.cross_entropy(flat, labels, w[0].abs(), None, 2, None, "sum", 0.1),
        F.nll_loss(flat, labels, reduction="none"),
        torch.arange(5), torch.arange(1, 9, 2), torch.full((2, 3), -torch.inf), x.new_ones(2, 3), torch.zeros_like(x),
        torch.tensor(2.5), torch.mm(w, w.t()), torch.special.expit(x),
    ]  # fmt: skip


def test_spellings_compute_what_they_are_read_as() -> None:
    torch.manual_seed(0)
    x, y, w = torch.randn(2, 3, 8), torch.randn(2, 3, 8), torch.randn(5, 8)
    m, i, labels = torch.rand(2, 3, 8) > 0.5, torch.randint(0, 3, (2, 3)), torch.randint(0, 8, (6,))
    run = capture(_spellings, x, y, m, i, w, labels).runs[0]
    opaque = {name for name, text in run.canonical.items() if text == "opaque()"}
    opaque = {name for name in opaque if isinstance(run.values.get(name), Tensor)}
    assert {re.sub(r"_\d+$", "", name) for name in opaque} <= {"mod", "empty"}, opaque
    assert len(run.checked) > 130
