#include "graph/support.h"

namespace liger::graph {
namespace {

using Layout = CaseTest;
TEST_P(Layout, IsRead) { check(); }

INSTANTIATE_TEST_SUITE_P(Reshapes, Layout,
                         ::testing::Values(Case{"float32[6, 8] = .view(%x, -1, 8)", "reshape(%x)"},
                                           Case{"float32[6, 8] = .view(%x, (6, 8))", "reshape(%x)"},
                                           Case{"float32[6, 8] = .view(%x, size=(6, 8))", "reshape(%x)"},
                                           Case{"float32[6, 8] = .reshape(%x, 6, -1)", "reshape(%x)"},
                                           Case{"float32[6, 8] = torch.reshape(%x, (6, 8))", "reshape(%x)"},
                                           Case{"float32[6, 8] = torch.flatten(%x, 0, 1)", "reshape(%x)"},
                                           Case{"float32[6, 8] = .flatten(%x, end_dim=-2)", "reshape(%x)"},
                                           Case{"float32[2, 3, 2, 4] = .unflatten(%x, -1, (2, 4))", "reshape(%x)"},
                                           Case{"float32[2, 1, 3, 8] = .unsqueeze(%x, 1)", "reshape(%x)"},
                                           Case{"float32[2, 1, 3, 8] = operator.getitem(%x, (:, None))", "reshape(%x)"},
                                           Case{"float32[2, 3, 1, 8] = operator.getitem(%x, (..., None, :))",
                                                "reshape(%x)"},
                                           Case{"float32[2, 3, 8] = .view_as(%x, %y)", "identity(%x)"},
                                           Case{"float32[2, 3, 8] = .view(%x, 2, 3, -1)", "identity(%x)"},
                                           Case{"float32[2, 3, 8] = .squeeze(%x)", "identity(%x)"},
                                           Case{"float32[s0*8] = .view(%d, -1)", "reshape(%d)"},
                                           Case{"float32[s0, 8] = .view(%d, %n, 8)", "identity(%d)"},
                                           Case{"float32[2, 3, 8] = .view(%g, 2, 3, 8)", "reshape(%g)"},
                                           // The bits as another type, or a shape that cannot be.
                                           Case{"int32[2, 3, 8] = .view(%x, int32)", "opaque()"},
                                           Case{"float32[2, 3, 8] = .view(%x, float32)", "opaque()"},
                                           Case{"float32[2, 3, 8] = .view(%x, dtype=float32)", "opaque()"},
                                           Case{"bfloat16[6, 8] = .reshape(%x, 6, 8)", "opaque()"},
                                           Case{"float32[7, 8] = .reshape(%x, 7, 8)", "opaque()"}));

INSTANTIATE_TEST_SUITE_P(
    Permutations, Layout,
    ::testing::Values(Case{"float32[2, 8, 3] = .transpose(%x, 1, 2)", "permute(%x, dims=[0, 2, 1])"},
                      Case{"float32[2, 8, 3] = torch.transpose(%x, -1, dim1=-2)", "permute(%x, dims=[0, 2, 1])"},
                      Case{"float32[2, 8, 3] = .swapaxes(%x, axis0=1, axis1=2)", "permute(%x, dims=[0, 2, 1])"},
                      Case{"float32[8, 2, 3] = .permute(%x, 2, 0, 1)", "permute(%x, dims=[2, 0, 1])"},
                      Case{"float32[8, 2, 3] = .permute(%x, (-1, 0, 1))", "permute(%x, dims=[2, 0, 1])"},
                      Case{"float32[8, 2, 3] = torch.permute(%x, dims=(2, 0, 1))", "permute(%x, dims=[2, 0, 1])"},
                      Case{"float32[2, 8, 3] = builtins.getattr(%x, \"mT\")", "permute(%x, dims=[0, 2, 1])"},
                      Case{"float32[6, 4] = builtins.getattr(%a, \"T\")", "permute(%a, dims=[1, 0])"},
                      Case{"float32[8, 3, 2] = builtins.getattr(%x, \"T\")", "permute(%x, dims=[2, 1, 0])"},
                      Case{"float32[6, 4] = .t(%a)", "permute(%a, dims=[1, 0])"},
                      Case{"float32[8] = .t(%v)", "identity(%v)"},
                      Case{"float32[8, 2, 3] = torch.movedim(%x, -1, 0)", "permute(%x, dims=[2, 0, 1])"},
                      Case{"float32[2, 3, 8] = .permute(%x, 0, 1, 2)", "identity(%x)"},
                      Case{"float32[2, 3, 8] = .transpose(%x, 1, 1)", "identity(%x)"},
                      Case{"float32[2, 8, 3] = .transpose(%x, 1, 3)", "opaque()"},
                      Case{"float32[8, 2, 3] = .permute(%x, 2, 0)", "opaque()"},
                      Case{"float32[8, 2, 3] = .permute(%x, 2, 0, 0)", "opaque()"},
                      Case{"float32[2, 8, 3] = .transpose(%x, %n, 1)", "opaque()"},
                      Case{"float32[2, 3, 8] = builtins.getattr(%x, \"data\")", "opaque()"},
                      Case{"float32[2, 3, 8] = builtins.getattr(%x, \"grad\")", "opaque()"}));

INSTANTIATE_TEST_SUITE_P(
    ExpandsAndJoins, Layout,
    ::testing::Values(Case{"float32[3, 8] = .expand(%v, 3, -1)", "expand(%v)"},
                      Case{"float32[3, 8] = .expand(%v, (3, 8))", "expand(%v)"},
                      Case{"float32[4, 6] = .expand_as(%v, %a)", "expand(%v)"},
                      Case{"float32[3, 8] = torch.broadcast_to(%v, (3, 8))", "expand(%v)"},
                      Case{"float32[2, 3, 8] = .expand(%x, 2, -1, -1)", "identity(%x)"},
                      Case{"float32[2, 3, 8] = .repeat(%x, 1, 1, 1)", "identity(%x)"},
                      Case{"float32[2, 3, 16] = .repeat(%x, 1, 1, 2)", "opaque()"},
                      Case{"float32[1, 2, 3, 8] = .repeat(%x, 1, 1, 1, 1)", "opaque()"},
                      Case{"float32[2, 3, 16] = torch.cat((%x, %y), dim=-1)", "concat(%x, %y, dims=[2])"},
                      Case{"float32[4, 3, 8] = torch.cat([%x, %y])", "concat(%x, %y, dims=[0])"},
                      Case{"float32[2, 3, 16] = torch.concatenate((%x, %y), axis=2)", "concat(%x, %y, dims=[2])"},
                      Case{"float32[2, 3, 8] = torch.cat((%x, %none), dim=-1)", "identity(%x)"},
                      Case{"float32[2, 3, 8] = torch.cat([%empty, %x], dim=-2)", "identity(%x)"},
                      Case{"float32[2, 3, 16] = torch.cat([%x, %none, %y], -1)", "concat(%x, %y, dims=[2])"},
                      Case{"float32[2, 3, 8] = torch.cat([%empty, %b], dim=-2)", "concat(%b, dims=[1])"},
                      Case{"float32[2, 3, 8, 2] = torch.stack((%x, %y), -1)", "stack(%x, %y, dims=[3])"},
                      Case{"float32[2, 2, 3, 8] = torch.stack([%x, %y])", "stack(%x, %y, dims=[0])"},
                      Case{"float32[2, 3, 16] = torch.cat((%x, %subclass), dim=-1)", "opaque()"},
                      Case{"float32[2, 3, 16] = torch.cat(%subclass, dim=-1)", "opaque()"},
                      Case{"float32[2, 3, 16] = torch.cat((%x, %y), dim=3)", "opaque()"},
                      Case{"float32[2, 3, 16] = torch.cat((%x, %y), dim=-1, out=%a)", "opaque()"}));

}  // namespace
}  // namespace liger::graph
