#include "graph/reading.h"

namespace liger::graph {

std::optional<std::int64_t> integer_of(const Graph& graph, const Value& value) {
  if (const auto* literal = std::get_if<std::int64_t>(&value)) return *literal;
  const auto* ref = std::get_if<NodeRef>(&value);
  if (ref == nullptr || !graph[ref->id].size || !graph[ref->id].size->is_constant()) return std::nullopt;
  return graph[ref->id].size->value();
}

std::optional<double> number_of(const Value& value) {
  if (const auto* integer = std::get_if<std::int64_t>(&value)) return static_cast<double>(*integer);
  if (const auto* real = std::get_if<double>(&value)) return *real;
  return std::nullopt;
}

std::optional<std::int64_t> normalized_dim(std::int64_t dim, std::size_t rank) {
  const auto count = static_cast<std::int64_t>(rank);
  if (dim < -count || dim >= count) return std::nullopt;
  return dim < 0 ? dim + count : dim;
}

const TensorMeta* tensor_of(const Graph& graph, const Value& value) {
  const auto* ref = std::get_if<NodeRef>(&value);
  return ref != nullptr && graph[ref->id].tensor ? &*graph[ref->id].tensor : nullptr;
}

std::vector<const Value*> items_of(const Value& value) {
  const auto* list = std::get_if<std::shared_ptr<const List>>(&value);
  if (list == nullptr) return {&value};
  std::vector<const Value*> items;
  for (const Value& item : (*list)->items) items.push_back(&item);
  return items;
}

bool Reading::bind(const Signature& signature) {
  op_ = signature.spelling->op;
  const std::size_t given = node.args.size();
  const std::size_t bound = std::min(given, signature.variadic ? signature.positional - 1 : signature.positional);
  if (given > bound && !signature.variadic) return false;
  for (std::size_t i = 0; i < bound; ++i) arguments_[i] = &node.args[i];
  variadic_begin_ = bound;
  for (const auto& [name, value] : node.kwargs) {
    std::size_t parameter = 0;
    while (parameter < signature.count && signature.parameters[parameter][0] != name &&
           signature.parameters[parameter][1] != name) {
      ++parameter;
    }
    if (parameter == signature.count || arguments_[parameter] != nullptr) return false;
    arguments_[parameter] = &value;
  }
  return true;
}

bool Reading::is_given(std::size_t parameter) const {
  return argument(parameter) != nullptr && !std::holds_alternative<None>(*argument(parameter));
}

bool Reading::variadic(std::size_t parameter, std::vector<const Value*>& values) const {
  const std::size_t count = node.args.size() - variadic_begin_;
  if (argument(parameter) != nullptr) {
    values = items_of(*argument(parameter));
    return count == 0;
  }
  if (count == 1) {
    values = items_of(node.args[variadic_begin_]);
    return true;
  }
  for (std::size_t i = variadic_begin_; i < node.args.size(); ++i) values.push_back(&node.args[i]);
  return true;
}

const Node* Reading::node_at(std::size_t parameter) const {
  const Value* value = argument(parameter);
  const auto* ref = value == nullptr ? nullptr : std::get_if<NodeRef>(value);
  return ref == nullptr ? nullptr : &graph[ref->id];
}

const TensorMeta* Reading::tensor_at(std::size_t parameter) const {
  const Node* input = node_at(parameter);
  return input != nullptr && input->tensor ? &*input->tensor : nullptr;
}

std::optional<std::int64_t> Reading::integer(std::size_t parameter) const {
  if (argument(parameter) == nullptr) return std::nullopt;
  return integer_of(graph, *argument(parameter));
}

std::optional<bool> Reading::boolean(std::size_t parameter, bool missing) const {
  if (argument(parameter) == nullptr) return missing;
  const auto* literal = std::get_if<bool>(argument(parameter));
  if (literal == nullptr) return std::nullopt;
  return *literal;
}

std::optional<std::int64_t> Reading::dim(std::size_t parameter, std::size_t rank) const {
  const auto literal = integer(parameter);
  if (!literal) return std::nullopt;
  return normalized_dim(*literal, rank);
}

std::optional<std::int64_t> Reading::dim_or(std::size_t parameter, std::size_t rank, std::int64_t missing) const {
  return argument(parameter) == nullptr ? normalized_dim(missing, rank) : dim(parameter, rank);
}

bool Reading::push_value(const Value* value) {
  if (value == nullptr || std::holds_alternative<None>(*value)) {
    out.operands.emplace_back();
  } else if (const auto* ref = std::get_if<NodeRef>(value)) {
    out.operands.push_back({resolve(ref->id), None{}});
  } else if (std::holds_alternative<bool>(*value) || number_of(*value)) {
    out.operands.push_back({kNoNode, *value});
  } else {
    return false;
  }
  return true;
}

bool Reading::push_tensor(std::size_t parameter) { return tensor_at(parameter) != nullptr && push(parameter); }

bool Reading::push_optional_tensor(std::size_t parameter) {
  return is_given(parameter) ? push_tensor(parameter) : push_value(nullptr);
}

bool Reading::identity_of(const Value& value) {
  if (tensor_of(graph, value) == nullptr) return false;
  const NodeId input = std::get<NodeRef>(value).id;
  const TensorMeta& before = *graph[input].tensor;
  const TensorMeta& after = result();
  const bool unchanged = before.dtype == after.dtype && after.dtype != DType::other && before.shape == after.shape &&
                         before.device == after.device && before.requires_grad == after.requires_grad;
  const auto is_written = [this](NodeId id) { return written_[static_cast<std::size_t>(canonical_.storage_root(id))]; };
  if (!unchanged || is_written(input) || is_written(node.id)) return false;
  out = CanonicalNode{};
  out.op = Op::identity;
  out.operands.push_back({resolve(input), None{}});
  return true;
}

}  // namespace liger::graph
