// What spans nodes: identities, users, regions, storage and writes.
#include "graph/support.h"

namespace liger::graph {
namespace {

TEST(Canonical, NamesEveryOp) {
  EXPECT_EQ(name_of(Op::opaque), "opaque");
  EXPECT_EQ(name_of(Op::log_sigmoid), "log_sigmoid");
  EXPECT_EQ(name_of(Op::layer_norm), "layer_norm");
  EXPECT_EQ(name_of(Op::subgraph_call), "subgraph_call");
}

TEST(Canonical, ReadsKindsWithoutSpelling) {
  const Viewed view(
      "%x: float32[2] = placeholder()\n"
      "%w: float32[2] = attr:weight()\n"
      "%body = attr:wrap_body_0()\n"
      "%_set_grad_enabled = torch._C._set_grad_enabled(False)\n"
      "%enter = torch.amp.autocast_mode._enter_autocast(\"cpu\", bfloat16, True, None)\n"
      "%exit = torch.amp.autocast_mode._exit_autocast(%enter)\n"
      "%call = torch.ops.higher_order.tag_activation_checkpoint(%body, %x, use_reentrant=False)\n"
      "%out: float32[2] = operator.getitem(%call, 0)\n"
      "return (%out, %w)\n");
  EXPECT_EQ(view.at("x"), "input()");
  EXPECT_EQ(view.at("w"), "input()");
  EXPECT_EQ(view.at("_set_grad_enabled"), "set_grad_enabled(False)");
  EXPECT_EQ(view.at("enter"), "enter_autocast()");
  EXPECT_EQ(view.at("exit"), "exit_autocast(%enter)");
  EXPECT_EQ(view.at("call"), "subgraph_call(%body, %x)");
  EXPECT_EQ(view.at("out"), "tuple_item(%call, dims=[0])");
  EXPECT_EQ(view.at("output"), "output(%out, %w)");
}

TEST(Canonical, ResolvesThroughChainsOfIdentities) {
  const Viewed view(
      "%x: float32[2, 3] = placeholder()\n"
      "%a: float32[2, 3] = .contiguous(%x)\n"
      "%b: float32[2, 3] = operator.mul(%a, 1.0)\n"
      "%c: float32[2, 3] = .view(%b, 2, 3)\n"
      "%r: float32[2, 3] = operator.add(%c, %a)\n"
      "return (%r, %b)\n");
  EXPECT_EQ(view.at("r"), "add(%x, %x)");
  EXPECT_EQ(view.canonical.resolve(view.id("c")), view.id("x"));
  EXPECT_EQ(view.names(view.canonical.identities_of(view.id("x"))), "a b c");
  EXPECT_EQ(view.names(view.canonical.identities_of(view.id("b"))), "a b c");
  EXPECT_EQ(view.names(view.canonical.value_users(view.id("x"))), "r output");
  EXPECT_EQ(view.names(view.canonical.value_users(view.id("c"))), "r output");
}

TEST(Canonical, CountsReadersOfShapeOrDtypeAsUsers) {
  const Viewed view(
      "%x: float32[2, 3] = placeholder()\n"
      "%y: float32[2, 3] = placeholder()\n"
      "%a: float32[2, 3] = .type_as(%x, %y)\n"
      "%r: float32[2, 3] = torch.rsqrt(%a)\n"
      "return %r\n");
  EXPECT_EQ(view.at("a"), "identity(%x)");
  EXPECT_EQ(view.names(view.canonical.value_users(view.id("y"))), "a");
  EXPECT_EQ(view.names(view.canonical.value_users(view.id("x"))), "r");
}

TEST(Canonical, FindsAttributes) {
  const Viewed view(
      "%x: float32[2, 3] = placeholder()\n"
      "%r: float32[2, 3] = torch._C._nn.gelu(%x)\n"
      "return %r\n");
  const CanonicalNode& node = view.canonical[view.id("r")];
  ASSERT_NE(node.attribute("approximate"), nullptr);
  EXPECT_EQ(std::get<std::string>(*node.attribute("approximate")), "none");
  EXPECT_EQ(node.attribute("eps"), nullptr);
}

TEST(Regions, FollowAutocastBrackets) {
  const Viewed view(
      "%x: float32[2] = placeholder()\n"
      "%before: float32[2] = .exp(%x)\n"
      "%e1 = torch.amp.autocast_mode._enter_autocast(\"cpu\", bfloat16, True, None)\n"
      "%one: float32[2] = .exp(%x)\n"
      "%e2 = torch.amp.autocast_mode._enter_autocast(\"cpu\", bfloat16, False, None)\n"
      "%inner: float32[2] = .exp(%x)\n"
      "%x2 = torch.amp.autocast_mode._exit_autocast(%e2)\n"
      "%two: float32[2] = .exp(%x)\n"
      "%x1 = torch.amp.autocast_mode._exit_autocast(%e1)\n"
      "%after: float32[2] = .exp(%x)\n"
      "%e3 = torch.amp.autocast_mode._enter_autocast(\"cpu\", bfloat16, True, None)\n"
      "%other: float32[2] = .exp(%x)\n"
      "%x3 = torch.amp.autocast_mode._exit_autocast(%e3)\n"
      "return (%before, %one, %inner, %two, %after, %other)\n");
  const auto region = [&](const char* name) { return view.canonical.autocast_region(view.id(name)); };
  EXPECT_EQ(region("before"), region("after"));
  EXPECT_EQ(region("one"), region("two"));
  EXPECT_NE(region("before"), region("one"));
  EXPECT_NE(region("one"), region("inner"));
  EXPECT_NE(region("one"), region("other"));
  EXPECT_NE(region("after"), region("other"));
}

TEST(Regions, StartAtOtherStateChanges) {
  const Viewed view(
      "%x: float32[2] = placeholder()\n"
      "%a: float32[2] = .exp(%x)\n"
      "%level = torch._functorch.predispatch._vmap_increment_nesting(2, \"error\")\n"
      "%b: float32[2] = .exp(%x)\n"
      "%end = torch._functorch.predispatch._vmap_decrement_nesting()\n"
      "%c: float32[2] = .exp(%x)\n"
      "%stream = torch.cuda.set_stream(<stream>)\n"
      "%d: float32[2] = .exp(%x)\n"
      "return (%a, %b, %c, %d)\n");
  const auto region = [&](const char* name) { return view.canonical.autocast_region(view.id(name)); };
  EXPECT_NE(region("a"), region("b"));
  EXPECT_EQ(region("a"), region("c"));
  EXPECT_NE(region("c"), region("d"));
}

TEST(Regions, SurviveAnExitWithoutEntry) {
  const Viewed view(
      "%x: float32[2] = placeholder()\n"
      "%end = torch.amp.autocast_mode._exit_autocast(%x)\n"
      "return %x\n");
  EXPECT_EQ(view.canonical.autocast_region(view.id("output")), 0);
}

std::string grad_modes(const std::string& first, const std::string& second) {
  const Viewed view(
      "%x: float32[2] = placeholder()\n%a: float32[2] = .exp(%x)\n"
      "%s1 = torch._C._set_grad_enabled(" +
      first +
      ")\n%b: float32[2] = .exp(%x)\n"
      "%s2 = torch._C._set_grad_enabled(" +
      second + ")\n%c: float32[2] = .exp(%x)\nreturn (%a, %b, %c)\n");
  std::string modes;
  for (const char* name : {"a", "b", "c"}) modes += view.canonical.grad_enabled(view.id(name)) ? '1' : '0';
  return modes;
}

TEST(Regions, FollowGradMode) {
  EXPECT_EQ(grad_modes("False", "True"), "101");
  EXPECT_EQ(grad_modes("True", "False"), "010");
}

struct WriteCase {
  std::string line;      // "%r: float32[2, 3] = .add_(%c, 1)"
  std::string expected;  // names of the roots written to; empty: nothing is

  friend std::ostream& operator<<(std::ostream& out, const WriteCase& c) { return out << c.line; }
};

class Writes : public ::testing::TestWithParam<WriteCase> {};

TEST_P(Writes, AreFound) {
  const Viewed view(
      "%x: float32[2, 3] = placeholder()\n"
      "%y: float32[2, 3] = placeholder()\n"
      "%n: size(s0) = placeholder()\n"
      "%c: float32[2, 3] = .exp(%x)\n"
      "%part: float32[2, 2] = operator.getitem(%c, (:, :2))\n" +
      GetParam().line + "\nreturn (%x, %y, %c, %part)\n");
  std::string roots;
  for (const auto& mutation : view.canonical.mutations()) {
    EXPECT_EQ(mutation.node, view.id("r"));
    EXPECT_EQ(view.at("r"), "opaque()");
    roots += view.names(mutation.storage_roots);
  }
  EXPECT_EQ(roots, GetParam().expected);
}

// Where nothing is known of a call, its arguments may share storage afterwards: the first root stands for all.
INSTANTIATE_TEST_SUITE_P(
    Spellings, Writes,
    ::testing::Values(
        WriteCase{"%r: float32[2, 3] = .add_(%c, %y)", "c"}, WriteCase{"%r: float32[2, 2] = .mul_(%part, 2)", "c"},
        WriteCase{"%r: float32[2, 3] = .copy_(%c, %y)", "c"}, WriteCase{"%r: float32[2, 3] = .clamp_(%x, 0)", "x"},
        WriteCase{"%r: float32[2, 3] = operator.iadd(%c, %y)", "c"},
        WriteCase{"%r = operator.setitem(%part, 0, %y)", "c"},
        WriteCase{"%r: float32[2, 3] = torch.add(%x, %y, out=%c)", "c"},
        WriteCase{"%r = torch.max(%x, 1, out=(%c, %y))", "y"}, WriteCase{"%r: float32[2, 3] = torch.relu_(%c)", "c"},
        WriteCase{"%r = torch._foreach_add_([%c, %y], 1)", "y"},
        WriteCase{"%r: float32[2, 3] = torch.nn.functional.silu(%c, inplace=True)", "c"},
        WriteCase{"%r: float32[2, 3] = torch.nn.functional.silu(%c, True)", "c"},
        WriteCase{"%r: float32[2, 3] = torch.nn.functional.dropout(%c, 0.1, True, True)", "c"},
        WriteCase{"%r: float32[2, 3] = torch.nn.functional.leaky_relu(%c, 0.01, True)", "c"},
        WriteCase{"%r: float32[2, 3] = torch.nn.functional.batch_norm(%c, %x, %y)", "x"},
        WriteCase{"%r: float32[2, 3] = torch.nn.functional.embedding(%c, %x, None, 1.0)", "x"},
        WriteCase{"%r: float32[2, 3] = user.kernel(%c, %y) mutates", "y"},
        WriteCase{"%r: float32[2, 3] = module:layer(%y) mutates", "y"},
        WriteCase{"%r = builtins.setattr(%y, \"data\", %c)", "y"},
        WriteCase{"%r: size(s0 + 1) = operator.iadd(%n, 1)", ""}, WriteCase{"%r: float32[2, 3] = .__add__(%c, %y)", ""},
        WriteCase{"%r: bool[2, 3] = operator.and_(%c, %y)", ""},
        WriteCase{"%r: float32[2, 3] = torch.nn.functional.dropout(%c, 0.1, True)", ""},
        WriteCase{"%r: float32[2, 3] = torch.add(%x, %y, out=None)", ""},
        WriteCase{"%r: float32[2, 3] = torch._C._nn.scaled_dot_product_attention(%c, %c, %c, None, 0.0, True)", ""},
        WriteCase{"%r: float32[2, 3] = user.function(%c, %y)", ""}));

struct StorageCase {
  std::string line;  // defines %r
  std::string root;

  friend std::ostream& operator<<(std::ostream& out, const StorageCase& c) { return out << c.line; }
};

class StorageRoot : public ::testing::TestWithParam<StorageCase> {};

TEST_P(StorageRoot, IsTheFirstThatMayShare) {
  const Viewed view(
      "%x: float32[2, 3] = placeholder()\n%y: float32[2, 3] = placeholder()\n%n: size(s0) = placeholder()\n" +
      GetParam().line + "\nreturn %r\n");
  const auto root = [&](const char* name) { return view.graph[view.canonical.storage_root(view.id(name))].name; };
  EXPECT_EQ(root("r"), GetParam().root);
}

INSTANTIATE_TEST_SUITE_P(
    Spellings, StorageRoot,
    ::testing::Values(
        StorageCase{"%r: float32[2, 3] = .exp(%y)", "r"}, StorageCase{"%r: float32[2, 3] = .clone(%y)", "r"},
        StorageCase{"%r: float32[2, 3] = operator.mul(%y, 1.0)", "r"},
        StorageCase{"%r: bfloat16[2, 3] = .to(%y, bfloat16)", "r"},
        StorageCase{"%r: float32[2, 3] = .to(%y, float32)", "y"},
        StorageCase{"%r: float32[2, 3] = .contiguous(%y)", "y"}, StorageCase{"%r: float32[6] = .view(%y, 6)", "y"},
        StorageCase{"%r: float32[s0] = .view(%y, %n)", "y"}, StorageCase{"%r: float32[6] = .reshape(%y, -1)", "y"},
        StorageCase{"%r: float32[3, 2] = builtins.getattr(%y, \"T\")", "y"},
        StorageCase{"%r: float32[2, 3] = .type_as(%y, %x)", "y"},
        StorageCase{"%r: float32[2, 3] = torch.dropout(%y, 0.0, False)", "y"},
        StorageCase{"%r: float32[2, 3] = torch.cat((%x, %y))", "r"},
        StorageCase{"%r: float32[2, 3] = .add_(%y, %x)", "y"}, StorageCase{"%r: float32[2, 3] = .set_(%y, %x)", "x"},
        StorageCase{"%r: float32[2, 3] = user.function(%y, %x)", "x"},
        StorageCase{"%r: float32[2, 3] = torch.einsum(\"ij->ij\", %y)", "y"},
        StorageCase{"%all = .chunk(%y, 2)\n%r: float32[1, 3] = operator.getitem(%all, 0)", "y"},
        StorageCase{"%all = .topk(%y, 2)\n%r: float32[2, 2] = operator.getitem(%all, 0)", "all"}));

TEST(StorageRoot, JoinsReadsOfOneAttribute) {
  const Viewed view(
      "%a: float32[2] = attr:weight()\n%b: float32[2] = attr:weight()\n%c: float32[2] = attr:bias()\n"
      "return (%a, %b, %c)\n");
  EXPECT_EQ(view.canonical.storage_root(view.id("b")), view.id("a"));
  EXPECT_EQ(view.canonical.storage_root(view.id("c")), view.id("c"));
}

std::string read_of_copy(const std::string& write) {
  const Viewed view("%x: float32[2, 3] = placeholder()\n%c: float32[2, 3] = .clone(%x)\n" + write +
                    "%r: float32[2, 3] = operator.mul(%c, 2)\nreturn %r\n");
  return view.at("r");
}

TEST(Mutations, EndIdentities) {
  EXPECT_EQ(read_of_copy(""), "mul(%x, 2)");
  EXPECT_EQ(read_of_copy("%w: float32[2, 3] = .add_(%x, 1)\n"), "mul(%c, 2)");
  EXPECT_EQ(read_of_copy("%w: float32[2, 3] = .add_(%c, 1)\n"), "mul(%c, 2)");
  EXPECT_EQ(read_of_copy("%o: float32[2, 3] = .exp(%x)\n%w: float32[2, 3] = .add_(%o, 1)\n"), "mul(%x, 2)");
}

TEST(Mutations, OfSubgraphCallsReachEveryInput) {
  const Viewed view(
      "%x: float32[2] = placeholder()\n%body = attr:wrap_body_0()\n"
      "%call = torch.ops.higher_order.wrap(%body, %x) mutates\nreturn %x\n");
  ASSERT_EQ(view.canonical.mutations().size(), 1U);
  EXPECT_EQ(view.names(view.canonical.mutations()[0].storage_roots), "x");
  EXPECT_EQ(view.at("call"), "subgraph_call(%body, %x)");
}

}  // namespace
}  // namespace liger::graph
