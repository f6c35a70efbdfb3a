// Ops that attention masks are made of.
#include "support.h"

namespace liger::graph {
namespace {

using MaskOps = CaseTest;
TEST_P(MaskOps, AreRead) { check(); }

INSTANTIATE_TEST_SUITE_P(FloorDivision, MaskOps,
                         ::testing::Values(Case{"int64[2, 3, 8] = operator.floordiv(%i, 2)", "floor_div(%i, 2)"},
                                           Case{"int64[2, 3, 8] = torch.floor_divide(%i, other=2)", "floor_div(%i, 2)"},
                                           Case{"int64[2, 3, 8] = .div(%i, 2, rounding_mode=\"floor\")",
                                                "floor_div(%i, 2)"}));

INSTANTIATE_TEST_SUITE_P(Differences, MaskOps,
                         ::testing::Values(Case{"int64[2, 2] = torch.diff(%ids)", "diff(%ids, None, None, dims=[1])"},
                                           Case{"int64[2, 3] = torch.diff(%ids, prepend=%ids2, dim=-1)",
                                                "diff(%ids, %ids2, None, dims=[1])"},
                                           Case{"int64[1, 3] = .diff(%ids, 1, 0)", "diff(%ids, None, None, dims=[0])"},
                                           Case{"int64[2, 3] = torch.diff(%ids, append=%ids2)",
                                                "diff(%ids, None, %ids2, dims=[1])"},
                                           Case{"int64[2, 1] = torch.diff(%ids, n=2)", "opaque()"},
                                           Case{"int64[2, 3] = torch.diff(%ids, prepend=3)", "opaque()"}));

INSTANTIATE_TEST_SUITE_P(Triangles, MaskOps,
                         ::testing::Values(Case{"float32[4, 6] = torch.tril(%a)", "tril(%a, bounds=[0])"},
                                           Case{"float32[4, 6] = .triu(%a, diagonal=1)", "triu(%a, bounds=[1])"},
                                           Case{"float32[4, 6] = .triu(%a, %n)", "opaque()"}));

INSTANTIATE_TEST_SUITE_P(Lookups, MaskOps,
                         ::testing::Values(Case{"float32[2, 3, 3, 8] = aten::index(%x, [%ids])", "index(%x, %ids)"},
                                           Case{"float32[2, 3, 3, 8] = aten::index(%x, [%ids, %ids2])",
                                                "index(%x, %ids, %ids2)"},
                                           Case{"float32[2, 2, 3, 8] = aten::index(%x, [None, %ids])", "opaque()"},
                                           Case{"float32[9, 8] = aten::index(%x, [%m])", "opaque()"}));

INSTANTIATE_TEST_SUITE_P(
    Vmap, MaskOps,
    ::testing::Values(
        Case{"int64[3] = torch._functorch.predispatch._add_batch_dim(%ids, 0, 1)", "batch(%ids, dims=[0, 1])"},
        Case{"int64[2] = torch._functorch.predispatch._add_batch_dim(%ids, -1, 2)", "batch(%ids, dims=[1, 2])"},
        Case{"int64[2, 3] = torch._functorch.predispatch._add_batch_dim(%ids, 0, 1)", "opaque()"},
        Case{"int64[5, 2, 3] = torch._functorch.predispatch._remove_batch_dim(%ids, 1, 5, 0)",
             "unbatch(%ids, dims=[0, 1])"},
        Case{"int64[2, 3] = torch._functorch.predispatch._remove_batch_dim(%ids, 1, 5, 0)", "opaque()"}));

}  // namespace
}  // namespace liger::graph
