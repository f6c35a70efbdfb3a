"""The backend with its inner compilers: what it hands on, what it reports, and that a failure inside harms nothing."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import Plain, batch, block

import liger_compile
from liger_compile import _rewriter
from liger_compile.reporting import Report
from liger_compile.tiny_models import tiny_batch, tiny_model

EAGER = {"inner": "eager"}


def handed_on(monkeypatch: pytest.MonkeyPatch) -> list[torch.fx.GraphModule]:
    """The graphs that reach Inductor, which then runs them as they are."""
    received: list[torch.fx.GraphModule] = []

    def compile_fx(
        gm: torch.fx.GraphModule, inputs: Any, config_patches: dict[str, Any], decompositions: Any = None
    ) -> Callable[..., Any]:
        received.append(gm)
        gm.config_patches = config_patches
        return gm.forward

    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", compile_fx)
    return received


def targets(gm: torch.fx.GraphModule) -> list[str]:
    return [str(node.target) for node in gm.graph.nodes if str(node.target).startswith("liger.")]


@pytest.mark.parametrize("inner", ["inductor", "aot_eager", "eager"])
def test_loss_and_gradients(inner: str) -> None:
    eager, model = block(), block()
    compiled = torch.compile(model, backend="liger", options={"inner": inner})
    with liger_compile.expect_rewrites(rms_norm=1, glu=1):
        compiled(batch()).square().sum().backward()
    eager(batch()).square().sum().backward()
    for expected, actual in zip(eager.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(actual.grad, expected.grad)


def test_first_call_under_hooks_for_saved_tensors() -> None:
    """They are for tensors with memory: what is evaluated while planning has none."""
    model = tiny_model("llama", use_cache=False)
    compiled = torch.compile(model, backend="liger", options={"inner": "aot_eager", "strict": True})

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        assert tensor.untyped_storage().data_ptr() >= 0
        return tensor

    with (
        liger_compile.expect_rewrites(attention_mask=2, glu=2, rms_norm=5, rope=2, linear_cross_entropy=1),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
    ):
        compiled(**tiny_batch(model.config)).loss.backward()


class Heads(torch.nn.Module):
    """Several heads on one hidden state, each for a token further ahead; the first is frozen."""

    def __init__(self, count: int = 3) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(128, 32)
        self.heads = torch.nn.ModuleList(torch.nn.Linear(32, 128, bias=False) for _ in range(count))
        self.heads[0].requires_grad_(False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden_states, total = self.embedding(ids).square(), torch.zeros(())
        for ahead, head in enumerate(self.heads, 1):
            logits = head(hidden_states)[:, :-ahead].reshape(-1, 128)
            total = total + 0.8**ahead * torch.nn.functional.cross_entropy(logits.float(), ids[:, ahead:].reshape(-1))
        return total


def test_several_heads_on_one_hidden_state() -> None:
    torch.manual_seed(0)
    eager = Heads()
    model, ids = copy.deepcopy(eager), torch.randint(0, 128, (2, 16))
    compiled = torch.compile(model, backend="liger", options={"inner": "aot_eager", "strict": True})
    with liger_compile.expect_rewrites(linear_cross_entropy=3):
        compiled(ids).backward()
    eager(ids).backward()
    for expected, actual in zip(eager.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(actual.grad, expected.grad)


def test_modes_and_inductor_options_reach_inductor(monkeypatch: pytest.MonkeyPatch) -> None:
    received = handed_on(monkeypatch)
    torch.compile(block(), backend="liger", mode="max-autotune")(batch())
    torch.compile(block(), backend="liger", options={"rewrite": "none", "epilogue_fusion": False})(batch())
    assert received[0].config_patches["max_autotune"] is True
    assert received[0].config_patches["triton.cudagraphs"] is True
    assert received[1].config_patches == {"epilogue_fusion": False}


def test_rewrite_none_and_disable(monkeypatch: pytest.MonkeyPatch) -> None:
    received = handed_on(monkeypatch)
    torch.compile(block(), backend="liger", options={"rewrite": "none"})(batch())
    torch.compile(block(), backend="liger", options={"disable": ["rms_norm"]})(batch())
    torch.compile(block(), backend="liger")(batch())
    assert [targets(gm) for gm in received] == [
        [],
        ["liger.glu.default"],
        ["liger.rms_norm.default", "liger.glu.default"],
    ]


def test_a_graph_with_nothing_to_rewrite_is_handed_on_untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    received = handed_on(monkeypatch)
    seen: list[tuple[torch.fx.GraphModule, str, list[str]]] = []
    import_graph = _rewriter.import_graph

    def look(gm: torch.fx.GraphModule, **options: Any) -> Any:
        seen.append((gm, gm.code, [node.name for node in gm.graph.nodes]))
        gm.recompile = lambda: pytest.fail("recompiled")
        return import_graph(gm, **options)

    monkeypatch.setattr(_rewriter, "import_graph", look)
    torch.compile(Plain(), backend="liger")(batch())
    gm, code, names = seen[0]
    assert received[0] is gm
    assert (gm.code, [node.name for node in gm.graph.nodes]) == (code, names)
    assert gm.config_patches == {}
    assert liger_compile.report().counts == {}


def test_new_nodes_keep_what_is_known_of_the_old(monkeypatch: pytest.MonkeyPatch) -> None:
    received = handed_on(monkeypatch)
    torch.compile(block(), backend="liger")(batch())
    norm = next(node for node in received[0].graph.nodes if str(node.target) == "liger.rms_norm.default")
    assert "return self.weight * (wide" in norm.meta["stack_trace"]
    assert "norm" in str(list(norm.meta["nn_module_stack"].values())[-1])
    assert norm.meta["example_value"].shape == (2, 4, 32)
    assert not [node for node in received[0].graph.nodes if node.target == "rsqrt" or node.target is torch.rsqrt]


def test_report_option_as_callable_and_path(tmp_path: Path) -> None:
    given: list[Report] = []
    torch.compile(block(), backend="liger", options={**EAGER, "report": given.append})(batch())
    assert [report.counts for report in given] == [{"rms_norm": 1, "glu": 1}]
    path = tmp_path / "report.json"
    for _ in range(2):
        torch._dynamo.reset()
        torch.compile(block(), backend="liger", options={**EAGER, "report": path})(batch())
    assert json.loads(path.read_text())["counts"] == {"rms_norm": 2, "glu": 2}
    assert liger_compile.report().graphs == 3


def test_a_report_that_cannot_be_written_is_warned_of(tmp_path: Path) -> None:
    compiled = torch.compile(block(), backend="liger", options={**EAGER, "report": tmp_path / "none" / "report.txt"})
    with pytest.warns(RuntimeWarning, match="the report was not written to"):
        compiled(batch())


@pytest.mark.parametrize("where", ["import_graph", "rewrite"])
def test_an_exception_inside_leaves_the_model_as_written(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise ValueError("a bug")

    monkeypatch.setattr(_rewriter, where, broken)
    model = block()
    with pytest.warns(RuntimeWarning, match="liger-compile failed inside; .* stays as written: ValueError: a bug"):
        actual = torch.compile(model, backend="liger", options=EAGER)(batch())
    assert torch.equal(actual, model(batch()))
    report = liger_compile.report()
    assert [(failure.rule, failure.message) for failure in report.failures] == [("liger-compile", "ValueError: a bug")]
    assert "Failed inside, left as written\n  liger-compile: ValueError: a bug" in str(report)
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.BackendCompilerFailed, match="ValueError: a bug"):
        torch.compile(model, backend="liger", options={**EAGER, "strict": True})(batch())


def test_a_failure_is_warned_of_once(monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder) -> None:
    rewrite = _rewriter.rewrite

    class Failing:
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            result = rewrite(*args, **kwargs)
            self.edits, self.records = result.edits, result.records
            self.errors = [("rope", "a bug")]

    monkeypatch.setattr(_rewriter, "rewrite", Failing)
    for _ in range(2):
        torch._dynamo.reset()
        torch.compile(block(), backend="liger", options=EAGER)(batch())
    warned = [str(warning.message) for warning in recwarn if "rope failed inside" in str(warning.message)]
    assert len(warned) == 1
    assert liger_compile.report().counts == {"rms_norm": 2, "glu": 2}
    assert len(liger_compile.report().failures) == 2


def test_an_operator_that_fails_on_fake_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> Any:
        def operator(*args: Any, **kwargs: Any) -> Any:
            raise ValueError(f"no {name}")

        return operator

    monkeypatch.setattr("liger_compile.apply._operator", broken)
    model = block()
    with pytest.warns(RuntimeWarning, match="(rms_norm|glu) failed inside"):
        actual = torch.compile(model, backend="liger", options=EAGER)(batch())
    assert torch.equal(actual, model(batch()))
    declined = liger_compile.report().declined
    assert [record.rule for record in declined] == ["rms_norm", "glu"]
    assert "no liger::glu" in declined[1].reason


def test_dynamic_shapes() -> None:
    model = block()
    compiled = torch.compile(model, backend="liger", dynamic=True, options={"inner": "aot_eager"})
    for rows in (4, 5, 9):
        torch.testing.assert_close(compiled(batch(rows)), model(batch(rows)))
    assert liger_compile.report().graphs == 1
    assert liger_compile.report().counts["glu"] == 1


@pytest.mark.parametrize("where", ["outside", "inside"])
def test_no_grad(where: str) -> None:
    model = block()

    def inside(x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return model(x)

    compiled = torch.compile(inside if where == "inside" else model, backend="liger", options={"inner": "aot_eager"})
    with torch.set_grad_enabled(where == "inside"):
        with liger_compile.expect_rewrites(rms_norm=1, glu=1):
            out = compiled(batch())
        torch.testing.assert_close(out, model(batch()))
    assert not out.requires_grad


def test_a_part_under_no_grad() -> None:
    model, other = block(), block(1)

    def both(x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            reference = other(x)
        return (model(x) - reference).square().mean()

    with liger_compile.expect_rewrites(rms_norm=2, glu=2):
        torch.compile(both, backend="liger", options={"inner": "aot_eager"})(batch()).backward()
    gradients = [copy.deepcopy(parameter.grad) for parameter in model.parameters()]
    model.zero_grad()
    both(batch()).backward()
    for expected, actual in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(actual, expected.grad)
    assert all(parameter.grad is None for parameter in other.parameters())


def test_checkpointed_bodies_are_rewritten() -> None:
    model = block()

    def checkpointed(x: torch.Tensor) -> torch.Tensor:
        return torch.utils.checkpoint.checkpoint(model, x, use_reentrant=False).square().sum()

    with liger_compile.expect_rewrites(rms_norm=1, glu=1):
        torch.compile(checkpointed, backend="liger", options={"inner": "aot_eager"})(batch()).backward()
    actual = [copy.deepcopy(parameter.grad) for parameter in model.parameters()]
    model.zero_grad()
    checkpointed(batch()).backward()
    for expected, gradient in zip(model.parameters(), actual, strict=True):
        torch.testing.assert_close(gradient, expected.grad)


def test_importing_is_light(run_script: Any, tmp_path: Path) -> None:
    script = tmp_path / "light.py"
    script.write_text("import sys, liger_compile\nprint([m for m in ('torch', 'numpy') if m in sys.modules])\n")
    assert run_script(script).stdout == "[]\n"


def test_inductor_prints_no_operands_of_our_ops(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it prints of an op that it does not know doubles with each layer: 16 of them would take days to compile."""
    from torch._inductor.exc import OperatorIssue

    def fail(target: Any, args: Any, kwargs: Any) -> str:
        pytest.fail(f"Inductor met {target} without a lowering")

    monkeypatch.setattr(OperatorIssue, "operator_str", staticmethod(fail))
    model = tiny_model("llama", num_hidden_layers=3, use_cache=False)
    compiled = torch.compile(model, backend="liger")
    with torch._inductor.config.patch(force_disable_caches=True):
        compiled(**tiny_batch(model.config)).loss.backward()
