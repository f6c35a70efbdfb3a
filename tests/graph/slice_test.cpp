#include "graph/support.h"

namespace liger::graph {
namespace {

using Slices = CaseTest;
TEST_P(Slices, IsRead) { check(); }

INSTANTIATE_TEST_SUITE_P(
    GetItem, Slices,
    ::testing::Values(
        Case{"float32[2, 3, 4] = operator.getitem(%x, (..., :4))", "slice(%x, dims=[2], bounds=[0, 4, 1])"},
        Case{"float32[2, 3, 4] = operator.getitem(%x, (..., 4:))", "slice(%x, dims=[2], bounds=[4, 8, 1])"},
        Case{"float32[2, 3, 4] = operator.getitem(%x, (:, :, -4:))", "slice(%x, dims=[2], bounds=[4, 8, 1])"},
        Case{"float32[2, 3, 4] = operator.getitem(%x, (..., 1::2))", "slice(%x, dims=[2], bounds=[1, 8, 2])"},
        Case{"float32[2, 2, 8] = operator.getitem(%x, (:, :-1))", "slice(%x, dims=[1], bounds=[0, 2, 1])"},
        Case{"float32[1, 3, 8] = operator.getitem(%x, 1:)", "slice(%x, dims=[0], bounds=[1, 2, 1])"},
        Case{"float32[2, 3, 0] = operator.getitem(%x, (..., 8:))", "slice(%x, dims=[2], bounds=[8, 8, 1])"},
        Case{"float32[2, 3, 0] = operator.getitem(%x, (..., 5:2))", "slice(%x, dims=[2], bounds=[5, 5, 1])"},
        Case{"float32[2, 3, 4] = operator.getitem(%x, (..., :%four))", "slice(%x, dims=[2], bounds=[0, 4, 1])"},
        Case{"float32[2, 3, 8] = operator.getitem(%x, (:, 0:, :))", "identity(%x)"},
        Case{"float32[2, 3, 8] = operator.getitem(%x, (..., :100))", "identity(%x)"},
        Case{"float32[2, 3, 8] = operator.getitem(%x, ...)", "identity(%x)"},
        Case{"float32[2, 3, 8] = operator.getitem(%x, (..., -8:8:1))", "identity(%x)"},
        Case{"float32[2, 8] = operator.getitem(%x, (:, -1))", "select(%x, dims=[1], bounds=[2])"},
        Case{"float32[3, 8] = operator.getitem(%x, 0)", "select(%x, dims=[0], bounds=[0])"},
        Case{"float32[2, 3] = operator.getitem(%x, (..., 7))", "select(%x, dims=[2], bounds=[7])"},
        Case{"float32[2, 3, 3, 8] = operator.getitem(%x, %ids)", "index(%x, %ids)"},
        Case{"float32[2, 3, 8] = operator.getitem(%x, (%ids, %ids2))", "index(%x, %ids, %ids2)"}));

INSTANTIATE_TEST_SUITE_P(NotUnderstood, Slices,
                         ::testing::Values(Case{"float32[2, 2, 4] = operator.getitem(%x, (:, 1:, :4))", "opaque()"},
                                           Case{"float32[2, 1, 3, 4] = operator.getitem(%x, (:, None, :, :4))",
                                                "opaque()"},
                                           Case{"float32[3, 4] = operator.getitem(%x, (0, :, :4))", "opaque()"},
                                           Case{"float32[2, 3, 8] = operator.getitem(%x, [0, 1])", "opaque()"},
                                           Case{"float32[4] = operator.getitem(%x, %m)", "opaque()"},
                                           Case{"float32[1, 2, 3, 8] = operator.getitem(%x, True)", "opaque()"},
                                           Case{"float32[2, 2, 3] = operator.getitem(%x, (:, :, %ids))", "opaque()"},
                                           Case{"float32[2, 3] = operator.getitem(%x, (..., %ids))", "opaque()"},
                                           Case{"float32[2, 3] = operator.getitem(%x, (..., 8))", "opaque()"},
                                           Case{"float32[2, 3] = operator.getitem(%x, (..., ..., 0))", "opaque()"},
                                           Case{"float32[2, 3] = operator.getitem(%x, (0, 0, 0, 0))", "opaque()"},
                                           Case{"float32[2, 3, 5] = operator.getitem(%x, (..., :4))", "opaque()"},
                                           Case{"float32[2, 3, 4] = operator.getitem(%x, (..., :%n))", "opaque()"},
                                           Case{"float32[2, 3, 4] = operator.getitem(%x, (..., ::0))", "opaque()"},
                                           Case{"float32[2, 3, 8] = operator.getitem(%subclass, 0)", "opaque()"}));

INSTANTIATE_TEST_SUITE_P(
    Symbolic, Slices,
    ::testing::Values(Case{"float32[s0 - 1, 8] = operator.getitem(%d, :-1)",
                           "slice(%d, dims=[0], bounds=[0, s0 - 1, 1])"},
                      Case{"float32[s0 - 1, 8] = operator.getitem(%d, 1:)", "slice(%d, dims=[0], bounds=[1, s0, 1])"},
                      Case{"float32[s0, 8] = operator.getitem(%d1, 1:)", "slice(%d1, dims=[0], bounds=[1, s0 + 1, 1])"},
                      Case{"float32[s0, 8] = operator.getitem(%d1, :-1)", "slice(%d1, dims=[0], bounds=[0, s0, 1])"},
                      Case{"float32[s0, 8] = operator.getitem(%d1, :%n)", "slice(%d1, dims=[0], bounds=[0, s0, 1])"},
                      Case{"float32[2, 8] = operator.getitem(%d, :2)", "slice(%d, dims=[0], bounds=[0, 2, 1])"},
                      Case{"float32[2, 8] = operator.getitem(%d, -2:)", "slice(%d, dims=[0], bounds=[s0 - 2, s0, 1])"},
                      Case{"float32[s0, 4] = operator.getitem(%d, (:, :4))", "slice(%d, dims=[1], bounds=[0, 4, 1])"},
                      Case{"float32[s0, 8] = operator.getitem(%d, :%n)", "identity(%d)"},
                      Case{"float32[s0, 8] = operator.getitem(%d, (0:, :))", "identity(%d)"},
                      Case{"float32[8] = operator.getitem(%d, -1)", "select(%d, dims=[0], bounds=[s0 - 1])"},
                      // The length does not prove the bounds.
                      Case{"float32[Max(0, s0 - 1), 8] = operator.getitem(%d, 1:)", "opaque()"},
                      Case{"float32[Min(2, s0), 8] = operator.getitem(%d, :2)", "opaque()"},
                      Case{"float32[s0, 8] = operator.getitem(%d, :2)", "opaque()"},
                      Case{"float32[s1, 8] = operator.getitem(%d, :-1)", "opaque()"},
                      Case{"float32[0, 8] = operator.getitem(%d, 3:3)", "opaque()"},
                      Case{"float32[s0//2, 8] = operator.getitem(%d, ::2)", "opaque()"}));

INSTANTIATE_TEST_SUITE_P(
    Functions, Slices,
    ::testing::Values(Case{"float32[2, 3, 4] = torch.narrow(%x, -1, 2, 4)", "slice(%x, dims=[2], bounds=[2, 6, 1])"},
                      Case{"float32[2, 3, 4] = .narrow(%x, dim=2, start=-4, length=4)",
                           "slice(%x, dims=[2], bounds=[4, 8, 1])"},
                      Case{"float32[2, 3, 8] = .narrow(%x, 2, 0, 8)", "identity(%x)"},
                      Case{"float32[2, 3, 4] = .narrow(%x, 2, %n, 4)", "opaque()"},
                      Case{"float32[2, 3, 4] = .narrow(%x, 2, %ids, 4)", "opaque()"},
                      Case{"float32[2, 8] = .select(%x, 1, 2)", "select(%x, dims=[1], bounds=[2])"},
                      Case{"float32[2, 8] = .select(%x, 1, 3)", "opaque()"}));

struct PieceCase {
  std::string call, item, expected;
  friend std::ostream& operator<<(std::ostream& out, const PieceCase& c) { return out << c.call << " " << c.item; }
};

class Pieces : public ::testing::TestWithParam<PieceCase> {};

TEST_P(Pieces, AreSlicesOfTheWhole) {
  const PieceCase& c = GetParam();
  const Viewed view(kInputs + ("%all = " + c.call + "\n%r: " + c.item + "\nreturn %r\n"));
  EXPECT_EQ(view.at("all"), "opaque()");
  EXPECT_EQ(view.at("r"), c.expected);
}

INSTANTIATE_TEST_SUITE_P(
    Spellings, Pieces,
    ::testing::Values(
        PieceCase{".chunk(%x, 2, -1)", "float32[2, 3, 4] = operator.getitem(%all, 0)",
                  "slice(%x, dims=[2], bounds=[0, 4, 1])"},
        PieceCase{"torch.chunk(%x, chunks=2, dim=2)", "float32[2, 3, 4] = operator.getitem(%all, 1)",
                  "slice(%x, dims=[2], bounds=[4, 8, 1])"},
        PieceCase{".chunk(%x, 3, -1)", "float32[2, 3, 2] = operator.getitem(%all, 2)",
                  "slice(%x, dims=[2], bounds=[6, 8, 1])"},
        PieceCase{".chunk(%x, 2)", "float32[1, 3, 8] = operator.getitem(%all, -1)",
                  "slice(%x, dims=[0], bounds=[1, 2, 1])"},
        PieceCase{".chunk(%x, 1, 0)", "float32[2, 3, 8] = operator.getitem(%all, 0)", "identity(%x)"},
        PieceCase{"torch.split(%x, 3, dim=-1)", "float32[2, 3, 2] = operator.getitem(%all, 2)",
                  "slice(%x, dims=[2], bounds=[6, 8, 1])"},
        PieceCase{".split(%x, [2, 6], -1)", "float32[2, 3, 6] = operator.getitem(%all, 1)",
                  "slice(%x, dims=[2], bounds=[2, 8, 1])"},
        PieceCase{"torch.functional.split(tensor=%x, split_size_or_sections=(2, 6), dim=-1)",
                  "float32[2, 3, 6] = operator.getitem(%all, 1)", "slice(%x, dims=[2], bounds=[2, 8, 1])"},
        PieceCase{"torch.unbind(%x, 1)", "float32[2, 8] = operator.getitem(%all, 2)",
                  "select(%x, dims=[1], bounds=[2])"},
        PieceCase{".chunk(%d, 2, -1)", "float32[s0, 4] = operator.getitem(%all, 1)",
                  "slice(%d, dims=[1], bounds=[4, 8, 1])"},
        PieceCase{".chunk(%d, 2, 0)", "float32[s0, 8] = operator.getitem(%all, 0)", "opaque()"},
        PieceCase{".chunk(%x, 2, -1)", "float32[2, 3, 4] = operator.getitem(%all, 2)", "opaque()"},
        PieceCase{".chunk(%x, 2, -1)", "float32[2, 3, 5] = operator.getitem(%all, 0)", "opaque()"},
        PieceCase{".chunk(%x, %n, -1)", "float32[2, 3, 4] = operator.getitem(%all, 0)", "opaque()"},
        PieceCase{".split(%x, [2, 7], -1)", "float32[2, 3, 7] = operator.getitem(%all, 1)", "opaque()"},
        PieceCase{".topk(%x, 2)", "float32[2, 3, 2] = operator.getitem(%all, 0)", "tuple_item(%all, dims=[0])"},
        PieceCase{".topk(%x, 2)", "int64[2, 3, 2] = operator.getitem(%all, -1)", "opaque()"}));

}  // namespace
}  // namespace liger::graph
