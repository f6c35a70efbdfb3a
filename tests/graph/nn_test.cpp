#include "graph/support.h"

namespace liger::graph {
namespace {

using Functions = CaseTest;
TEST_P(Functions, IsRead) { check(); }

INSTANTIATE_TEST_SUITE_P(
    Reductions, Functions,
    ::testing::Values(Case{"float32[2, 3, 1] = .mean(%x, -1, keepdim=True)", "mean(%x, dims=[2], keepdim)"},
                      Case{"float32[2, 3, 1] = torch.mean(%x, dim=[-1], keepdim=True)", "mean(%x, dims=[2], keepdim)"},
                      Case{"float32[2, 3, 1] = .mean(%x, (2,), True)", "mean(%x, dims=[2], keepdim)"},
                      Case{"float32[2, 3] = .mean(%x, axis=2)", "mean(%x, dims=[2])"},
                      Case{"float32[] = .mean(%x)", "mean(%x, dims=[0, 1, 2])"},
                      Case{"float32[] = torch.sum(%x, dim=None)", "sum(%x, dims=[0, 1, 2])"},
                      Case{"float32[3] = .sum(%x, (-1, 0))", "sum(%x, dims=[0, 2])"},
                      Case{"int64[2, 3] = .sum(%i, -1)", "sum(%i, dims=[2])"},
                      Case{"float32[2, 3] = .mean(%x, -1, dtype=float32)", "mean(%x, dims=[2])"},
                      Case{"float32[2, 3] = torch.logsumexp(%x, -1)", "logsumexp(%x, dims=[2])"},
                      Case{"float32[2, 3, 8] = torch.nn.functional.softmax(%x, dim=-1)", "softmax(%x, dims=[2])"},
                      Case{"float32[2, 3, 8] = torch.nn.functional.softmax(%x, -1, 3, float32)",
                           "softmax(%x, dims=[2])"},
                      Case{"float32[2, 3, 8] = .log_softmax(%x, -1)", "log_softmax(%x, dims=[2])"},
                      Case{"int64[2, 3, 8] = .cumsum(%i, -1)", "cumsum(%i, dims=[2])"},
                      Case{"float32[2, 3] = .mean(%b, -1, dtype=float32)", "opaque()"},
                      Case{"float32[2, 3, 8] = torch.nn.functional.softmax(%b, dim=-1, dtype=float32)", "opaque()"},
                      Case{"float32[2, 3, 8] = torch.nn.functional.softmax(%x)", "opaque()"},
                      Case{"float32[2, 3] = .mean(%x, -1, keepdim=True)", "opaque()"},
                      Case{"float32[2, 3] = .mean(%x, 3)", "opaque()"},
                      Case{"float32[2] = .sum(%x, (1, -2))", "opaque()"}, Case{"float32[] = .sum(%x, [])", "opaque()"},
                      Case{"float32[2, 3] = .mean(%x, %n)", "opaque()"},
                      Case{"float32[2, 3] = .mean(%x, -1, out=%a)", "opaque()"},
                      Case{"float32[2, 3] = .sum(%x, -1, 1)", "opaque()"}));

INSTANTIATE_TEST_SUITE_P(
    Products, Functions,
    ::testing::Values(Case{"float32[2, 3, 5] = torch._C._nn.linear(%x, %w, None)", "linear(%x, %w, None)"},
                      Case{"float32[2, 3, 5] = torch.nn.functional.linear(%x, %w)", "linear(%x, %w, None)"},
                      Case{"float32[2, 3, 5] = torch._C._nn.linear(%x, weight=%w, bias=%bias)",
                           "linear(%x, %w, %bias)"},
                      Case{"float32[4, 4] = operator.matmul(%a, %a)", "matmul(%a, %a)"},
                      Case{"float32[4, 4] = torch.mm(%a, mat2=%a)", "matmul(%a, %a)"},
                      Case{"float32[4, 4] = .bmm(%a, %a)", "matmul(%a, %a)"},
                      Case{"float32[4, 4] = torch.mm(%a, %a, out_dtype=float32)", "opaque()"},
                      Case{"float32[2, 3, 5] = torch._C._nn.linear(%x, %w, 1.0)", "opaque()"},
                      Case{"float32[2, 3, 5] = torch.einsum(\"bsh,vh->bsv\", %x, %w)", "opaque()"}));

INSTANTIATE_TEST_SUITE_P(
    Activations, Functions,
    ::testing::Values(Case{"float32[2, 3, 8] = torch.nn.functional.silu(%x)", "silu(%x)"},
                      Case{"float32[2, 3, 8] = torch.nn.functional.silu(%x, inplace=False)", "silu(%x)"},
                      Case{"float32[2, 3, 8] = torch._C._nn.gelu(%x)", "gelu(%x, approximate=\"none\")"},
                      Case{"float32[2, 3, 8] = torch._C._nn.gelu(%x, approximate=\"tanh\")",
                           "gelu(%x, approximate=\"tanh\")"},
                      Case{"float32[2, 3, 8] = torch.relu(%x)", "relu(%x)"},
                      Case{"float32[2, 3, 8] = torch.nn.functional.silu(%x, inplace=True)", "opaque()"},
                      Case{"float32[2, 3, 8] = torch.nn.functional.relu(%x, True)", "opaque()"},
                      Case{"float32[2, 3, 8] = torch._C._nn.gelu(%x, approximate=\"other\")", "opaque()"},
                      Case{"float32[2, 3, 8] = torch.nn.functional.dropout(%x, 0.0, True, False)", "identity(%x)"},
                      Case{"float32[2, 3, 8] = torch.nn.functional.dropout(%x, p=0.5, training=False)", "identity(%x)"},
                      Case{"float32[2, 3, 8] = torch.nn.functional.dropout(%x)", "dropout(%x, p=0.5)"},
                      Case{"float32[2, 3, 8] = torch.dropout(%x, 0.1, True)", "dropout(%x, p=0.1)"},
                      Case{"float32[2, 3, 8] = torch.nn.functional.dropout(%x, %eps, True)", "dropout(%x, p=%eps)"},
                      Case{"float32[2, 3, 8] = torch.nn.functional.dropout(%x, 0.0, True, True)", "opaque()"},
                      Case{"float32[2, 3, 8] = torch.nn.functional.dropout(%x, 0.5, %n)", "opaque()"},
                      Case{"float32[2, 3, 8] = torch.nn.functional.dropout1d(%x, 0.0, False)", "opaque()"}));

INSTANTIATE_TEST_SUITE_P(
    Norms, Functions,
    ::testing::Values(Case{"float32[2, 3, 8] = torch.nn.functional.layer_norm(%x, (8,), %v, %u, 1e-05)",
                           "layer_norm(%x, %v, %u, dims=[2], eps=1e-05)"},
                      Case{"float32[2, 3, 8] = torch.nn.functional.layer_norm(%x, [8], eps=0.001)",
                           "layer_norm(%x, None, None, dims=[2], eps=0.001)"},
                      Case{"float32[2, 3, 8] = torch.nn.functional.layer_norm(%x, (3, 8))",
                           "layer_norm(%x, None, None, dims=[1, 2], eps=1e-05)"},
                      Case{"float32[2, 3, 8] = torch.layer_norm(%x, (8,), None, None, 1, True)",
                           "layer_norm(%x, None, None, dims=[2], eps=1.0)"},
                      Case{"float32[2, 3, 8] = torch.rms_norm(%x, (8,), weight=%v, eps=%eps)",
                           "rms_norm(%x, %v, dims=[2], eps=%eps)"},
                      Case{"float32[2, 3, 8] = torch.nn.functional.rms_norm(%x, (8,))",
                           "rms_norm(%x, None, dims=[2], eps=None)"},
                      Case{"float32[2, 3, 8] = torch.nn.functional.layer_norm(%x, (7,))", "opaque()"},
                      Case{"float32[2, 3, 8] = torch.nn.functional.layer_norm(%x, (8,), eps=None)", "opaque()"},
                      Case{"float32[2, 3, 8] = torch.nn.functional.layer_norm(%x, ())", "opaque()"}));

INSTANTIATE_TEST_SUITE_P(
    Losses, Functions,
    ::testing::Values(
        Case{"float32[] = torch.nn.functional.cross_entropy(%logits, %target)",
             "cross_entropy(%logits, %target, None, reduction=\"mean\", ignore_index=-100, label_smoothing=0.0)"},
        Case{"float32[] = torch.nn.functional.cross_entropy(%logits, %target, %classes, None, -1, None, \"sum\", 0.1)",
             "cross_entropy(%logits, %target, %classes, reduction=\"sum\", ignore_index=-1, label_smoothing=0.1)"},
        Case{"float32[6] = torch.nn.functional.cross_entropy(input=%logits, target=%target, reduction=\"none\", "
             "label_smoothing=0)",
             "cross_entropy(%logits, %target, None, reduction=\"none\", ignore_index=-100, label_smoothing=0.0)"},
        Case{"float32[] = torch._C._nn.cross_entropy_loss(%logits, %target, None, 2, 0)",
             "cross_entropy(%logits, %target, None, reduction=\"sum\", ignore_index=0, label_smoothing=0.0)"},
        Case{"float32[] = torch.nn.functional.nll_loss(%logits, %target)",
             "nll_loss(%logits, %target, None, reduction=\"mean\", ignore_index=-100)"},
        Case{"float32[] = torch.nn.functional.cross_entropy(%logits, %target, size_average=True)", "opaque()"},
        Case{"float32[] = torch.nn.functional.cross_entropy(%logits, %target, reduce=False)", "opaque()"},
        Case{"float32[] = torch.nn.functional.cross_entropy(%logits, %target, reduction=\"other\")", "opaque()"},
        Case{"float32[] = torch.nn.functional.cross_entropy(%logits, %target, ignore_index=%n)", "opaque()"},
        Case{"float32[] = torch.nn.functional.cross_entropy(%logits, %logits)", "opaque()"}));

INSTANTIATE_TEST_SUITE_P(
    Others, Functions,
    ::testing::Values(
        Case{"float32[2, 3, 8] = torch.nn.functional.embedding(%ids, %w, 0, None, 2.0, False, False)",
             "embedding(%ids, %w, padding_idx=0, scale_grad_by_freq=False, sparse=False)"},
        Case{"float32[2, 3, 8] = torch.embedding(%w, %ids)",
             "embedding(%ids, %w, padding_idx=None, scale_grad_by_freq=False, sparse=False)"},
        Case{"float32[2, 3, 8] = torch.nn.functional.embedding(%ids, %w, None, 1.0)", "opaque()"},
        Case{"float32[2, 4, 8, 16] = torch._C._nn.scaled_dot_product_attention(%q, %q, %q, attn_mask=None, "
             "dropout_p=0.0, is_causal=True, scale=0.25)",
             "attention(%q, %q, %q, None, dropout_p=0.0, is_causal=True, scale=0.25, enable_gqa=False)"},
        Case{"float32[2, 4, 8, 16] = torch.nn.functional.scaled_dot_product_attention(%q, %q, %q, %q)",
             "attention(%q, %q, %q, %q, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False)"},
        Case{"float32[2, 4, 8, 16] = torch._C._nn.scaled_dot_product_attention(%q, %q, %q, None, 0.0, %n)", "opaque()"},
        Case{"float32[2, 3, 8] = torch.gather(%x, -1, %i)", "gather(%x, %i, dims=[2])"},
        Case{"float32[2, 3, 8] = .gather(%x, dim=0, index=%i, sparse_grad=True)", "opaque()"},
        Case{"int64[2, 4] = torch._C._nn.pad(%ids, (0, 1), \"constant\", -100)", "pad(%ids, pad=(0, 1), value=-100)"},
        Case{"int64[2, 4] = torch.nn.functional.pad(%ids, (0, 1))", "pad(%ids, pad=(0, 1), value=0)"},
        Case{"int64[2, 3] = torch._C._nn.pad(%ids, (0, 0))", "identity(%ids)"},
        Case{"int64[2, 4] = torch._C._nn.pad(%ids, (0, 1), \"reflect\")", "opaque()"},
        Case{"int64[2, 4] = torch._C._nn.pad(%ids, (0, %n))", "opaque()"},
        Case{"int64[16] = torch.arange(16, device=<cpu>)", "arange(0, 16, 1)"},
        Case{"int64[8] = torch.arange(0, 16, 2)", "arange(0, 16, 2)"},
        Case{"int64[6] = torch.arange(start=2, end=8)", "arange(2, 8, 1)"},
        Case{"int64[s0] = torch.arange(%n)", "arange(0, %n, 1)"},
        Case{"float32[2, 3] = torch.full((2, 3), -inf)", "full(-inf)"},
        Case{"float32[2, 3] = torch.full(size=(2, 3), fill_value=%eps)", "full(%eps)"},
        Case{"bool[] = .new_ones(%x, (), dtype=bool)", "full(1)"}, Case{"float32[2, 3] = torch.zeros(2, 3)", "full(0)"},
        Case{"float32[2, 3, 8] = torch.ones_like(%x, dtype=float32)", "full(1)"},
        Case{"float32[] = torch.tensor(2.5)", "full(2.5)"}, Case{"float32[2] = torch.tensor([1.0, 2.0])", "opaque()"},
        Case{"float32[] = torch.full((), %scalar)", "opaque()"}));

}  // namespace
}  // namespace liger::graph
