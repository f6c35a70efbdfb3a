// What a rewrite writes: expressions over existing nodes, edits, and the records of the report.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "graph/graph.h"

namespace liger::rewrite {

struct Expr;

using Argument = std::variant<graph::None, bool, std::int64_t, double, std::string, graph::DType, graph::NodeRef,
                              std::shared_ptr<const Expr>>;

// A call to be built. `op` is "liger::<name>" for an op of ours, "cast" for x.to(dtype), or "like:<node>" for the call
// of an existing node with its first tensor argument replaced by args[0], "attention" for scaled_dot_product_attention,
// "block_attention" and "blocks" for the functions of python/liger_compile/block_attention.py.
struct Expr {
  std::string op;
  std::vector<Argument> args;
  std::vector<std::pair<std::string, Argument>> kwargs;

  Expr& kwarg(std::string name, Argument value) {
    kwargs.emplace_back(std::move(name), std::move(value));
    return *this;
  }
};

// Every node that the call reads, at any depth.
void for_each_node(Expr& expr, const std::function<void(graph::NodeRef&)>& visit);

// "liger::rms_norm(%x, %weight, 1e-06, round_before_weight=True)"
std::string print(const graph::Graph& graph, const Expr& expr);
std::string print(const graph::Graph& graph, const Argument& argument);

// Node `node` is replaced by output `output` of the call, or by its only result where `output` is kOnlyResult.
inline constexpr int kOnlyResult = -1;
struct Result {
  int output = kOnlyResult;
  graph::NodeId node = graph::kNoNode;
};

// What must hold of a tensor's values in a call of the graph for a rewrite to be right in that call.
struct RunCondition {
  enum class Kind : std::uint8_t { all_nonzero, all_zero, constant_along };

  Kind kind = Kind::all_nonzero;
  std::string node;
  std::size_t dim = 0;    // of constant_along
  bool is_outer = false;  // a node of the graph that calls this one as a subgraph
};

// An output that the graph only returns: it returns `from` instead, and the caller computes the output from that when
// it is read.
struct OnDemand {
  int output = 0;
  graph::NodeId from = graph::kNoNode;
};

struct Edit {
  std::string rule;
  std::size_t record = 0;                 // index into RewriteResult::records
  graph::NodeId anchor = graph::kNoNode;  // the new nodes go before this one
  Expr call;
  std::vector<Result> results;
  std::vector<graph::NodeId> interior;  // matched nodes in program order, to be erased where nothing uses them
  std::vector<RunCondition> conditions;
  std::vector<graph::NodeId> unused;     // what only a dropped operand may have needed, to be erased in the same way
  std::vector<graph::NodeId> on_demand;  // nodes of an output on demand
  graph::NodeId on_demand_from = graph::kNoNode;  // what is returned for them
  std::optional<Expr> otherwise;  // instead of `call` where the conditions do not hold; none: nothing is replaced
};

struct Record {
  enum class Kind : std::uint8_t { rewritten, declined, near_miss };

  Kind kind = Kind::rewritten;
  std::string rule;
  graph::NodeId node = graph::kNoNode;
  std::string detail;  // what it became: "rms_norm + residual add, bfloat16[4, 4096, 2048]"
  std::string reason;  // why not; empty where rewritten
  std::size_t num_nodes = 0;
};

struct RewriteResult {
  std::vector<Edit> edits;
  std::vector<Record> records;
  std::vector<std::pair<std::string, std::string>> errors;  // rule and message of an exception inside it
};

}  // namespace liger::rewrite
