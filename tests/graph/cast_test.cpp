#include "graph/support.h"

namespace liger::graph {
namespace {

using Cast = CaseTest;
TEST_P(Cast, IsRead) { check(); }

INSTANTIATE_TEST_SUITE_P(
    Spellings, Cast,
    ::testing::Values(
        Case{"float32[2, 3, 8] = .float(%b)", "cast(%b)"}, Case{"bfloat16[2, 3, 8] = .bfloat16(%x)", "cast(%x)"},
        Case{"float16[2, 3, 8] = .half(%x)", "cast(%x)"}, Case{"float64[2, 3, 8] = .double(%x)", "cast(%x)"},
        Case{"int64[2, 3, 8] = .long(%x)", "cast(%x)"}, Case{"bool[2, 3, 8] = .bool(%x)", "cast(%x)"},
        Case{"float32[2, 3, 8] = .to(%b, float32)", "cast(%b)"},
        Case{"float32[2, 3, 8] = .to(%b, dtype=float32)", "cast(%b)"},
        Case{"float32[2, 3, 8] = .to(%b, <cpu>, float32)", "cast(%b)"},
        Case{"float32[2, 3, 8] = .to(%b, \"cpu\", float32, True)", "cast(%b)"},
        Case{"float32[2, 3, 8] = .to(%b, dtype=float32, device=<cpu>, non_blocking=True)", "cast(%b)"},
        Case{"float32[2, 3, 8] = .to(%b, %x)", "cast(%b)"}, Case{"float32[2, 3, 8] = .to(%b, other=%x)", "cast(%b)"},
        Case{"float32[2, 3, 8] = .type_as(%b, %x)", "cast(%b)"},
        Case{"float32[2, 3, 8] = .type(%b, float32)", "cast(%b)"},
        Case{"float32[2, 3, 8] = .type(%b, \"torch.FloatTensor\")", "cast(%b)"},
        Case{"float32[2, 3, 8] = torch.as_tensor(%b, dtype=float32)", "cast(%b)"}));

INSTANTIATE_TEST_SUITE_P(
    SameDtype, Cast,
    ::testing::Values(Case{"float32[2, 3, 8] = .float(%x)", "identity(%x)"},
                      Case{"float32[2, 3, 8] = .to(%x, float32)", "identity(%x)"},
                      Case{"float32[2, 3, 8] = .to(%x, <cpu>)", "identity(%x)"},
                      Case{"float32[2, 3, 8] = .type_as(%x, %y)", "identity(%x)"},
                      Case{"float32[2, 3, 8] = .cpu(%x)", "identity(%x)"},
                      Case{"float32[2, 3, 8] on cuda:0 = .cuda(%cuda)", "identity(%cuda)"},
                      Case{"float32[2, 3, 8] = .contiguous(%x)", "identity(%x)"},
                      Case{"float32[2, 3, 8] = .contiguous(%x, memory_format=<torch.contiguous_format>)",
                           "identity(%x)"},
                      Case{"float32[2, 3, 8] = torch.clone(%x, memory_format=<torch.preserve_format>)", "identity(%x)"},
                      Case{"float32[2, 3, 8] = .detach(%x)", "identity(%x)"}));

INSTANTIATE_TEST_SUITE_P(
    NotUnderstood, Cast,
    ::testing::Values(Case{"float32[2, 3, 8] = .detach(%g)", "opaque()"},
                      Case{"float32[2, 3, 8] = .clone(%g)", "opaque()"},  // under no_grad: as detach
                      Case{"float32[2, 3, 8] on cuda:0 = .to(%x, <cuda:0>)", "opaque()"},
                      Case{"bfloat16[2, 3, 8] on cuda:0 = .to(%x, <cuda:0>, bfloat16)", "opaque()"},
                      Case{"float32[2, 3, 8] = .cpu(%cuda)", "opaque()"},
                      Case{"bfloat16[2, 3, 8] = .float(%x)", "opaque()"},
                      Case{"float32[2, 3] = .float(%b)", "opaque()"},
                      Case{"other[2, 3, 8] = .to(%x, other)", "opaque()"},
                      Case{"float32[2, 3, 8] = .float(%subclass)", "opaque()"},
                      Case{"bfloat16[2, 3, 8] = .to(%x, bfloat16, layout=<torch.strided>)", "opaque()"},
                      Case{"float32[2, 3, 8] = .contiguous(%subclass)", "opaque()"}));

}  // namespace
}  // namespace liger::graph
