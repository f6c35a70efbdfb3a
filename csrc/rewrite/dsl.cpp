#include "rewrite/dsl.h"

namespace liger::rewrite {

namespace {

constexpr std::size_t kAnyLength = 64;

Pattern::Data data_of(Pattern::Kind kind, std::string name) {
  Pattern::Data data;
  data.kind = kind;
  data.name = std::move(name);
  return data;
}

Pattern leaf(Pattern::Kind kind, std::string name) { return Pattern(data_of(kind, std::move(name))); }

// The size of the last dim of operand 0, which a slice or reduction along it refers to.
const graph::SymInt* last_size(const Candidate& candidate) {
  const graph::Node* input = candidate.operand(0);
  return input != nullptr && input->tensor && input->tensor->rank() > 0 ? &input->tensor->shape.back() : nullptr;
}

bool is_last_dim(const Candidate& candidate, std::int64_t dim) {
  const graph::Node* input = candidate.operand(0);
  return input != nullptr && input->tensor && dim + 1 == static_cast<std::int64_t>(input->tensor->rank());
}

Verdict reduces_last_dim(const Candidate& candidate) {
  const graph::CanonicalNode& op = candidate.canonical();
  if (op.dims.size() != 1 || !is_last_dim(candidate, op.dims[0])) return because("it must reduce the last dim only");
  return op.keepdim ? ok() : because("it must keep the reduced dim (keepdim=True)");
}

Verdict takes_part(const Candidate& candidate, Part part) {
  const graph::CanonicalNode& op = candidate.canonical();
  const graph::SymInt* size = last_size(candidate);
  if (size == nullptr || op.dims.size() != 1 || op.bounds.size() != 3 || !is_last_dim(candidate, op.dims[0])) {
    return because("it must slice the last dim");
  }
  const graph::SymInt &start = op.bounds[0], &stop = op.bounds[1], &step = op.bounds[2];
  if (step != graph::SymInt(1)) return because("it must slice with step 1, not " + step.str());
  const bool from_start = start == graph::SymInt(0), to_end = stop == *size;
  if (part == Part::leading) return from_start ? ok() : because("it must start at 0, not " + start.str());
  if (part == Part::trailing) return to_end ? ok() : because("it must end at " + size->str() + ", not " + stop.str());
  if (!size->is_constant() || size->value() % 2 != 0) return because("a last dim of " + size->str() + " has no halves");
  const graph::SymInt half(size->value() / 2);
  if (part == Part::first_half) {
    return from_start && stop == half ? ok() : because("it must be the first half of the last dim");
  }
  return start == half && to_end ? ok() : because("it must be the second half of the last dim");
}

Verdict widens(const Candidate& candidate) {
  const graph::Node* input = candidate.operand(0);
  if (candidate.canonical().op != Op::cast || input == nullptr || !input->tensor || !candidate.node().tensor) {
    return because("it is not a cast");
  }
  const graph::DType from = input->tensor->dtype, to = candidate.node().tensor->dtype;
  if (to == graph::DType::float64) return because("the kernels compute in float32");
  return graph::is_lossless_cast(from, to) ? ok() : because("it loses precision");
}

Verdict narrows(const Candidate& candidate) {
  const graph::Node* input = candidate.operand(0);
  if (candidate.canonical().op != Op::cast || input == nullptr || !input->tensor || !candidate.node().tensor) {
    return because("it is not a cast");
  }
  const graph::DType from = input->tensor->dtype, to = candidate.node().tensor->dtype;
  const bool rounds = graph::is_floating(from) && graph::is_floating(to) && !graph::is_lossless_cast(from, to);
  return rounds ? ok() : because("it does not round to a narrower float");
}

Pattern chain(std::string name, Pattern inner, std::vector<Op> ops, Predicate accepts, std::size_t max_length) {
  Pattern::Data data = data_of(Pattern::Kind::through, std::move(name));
  data.children = {std::move(inner)};
  data.predicates = {std::move(accepts)};
  data.max_length = max_length;
  data.chain_ops = std::move(ops);
  return Pattern(std::move(data));
}

}  // namespace

Pattern tensor(std::string name) { return leaf(Pattern::Kind::tensor, std::move(name)); }
Pattern optional_tensor(std::string name) { return leaf(Pattern::Kind::optional, std::move(name)); }
Pattern scalar(std::string name) { return leaf(Pattern::Kind::scalar, std::move(name)); }

Pattern lit(double value) {
  Pattern::Data data = data_of(Pattern::Kind::literal, {});
  data.literal = value;
  return Pattern(std::move(data));
}

Pattern operation(Op op, std::vector<Pattern> operands) {
  Pattern::Data data = data_of(Pattern::Kind::operation, std::string(graph::name_of(op)));
  data.op = op;
  data.children = std::move(operands);
  return Pattern(std::move(data));
}

Pattern recip(const Pattern& a) { return either("reciprocal", {operation(Op::reciprocal, {a}), div(lit(1), a)}); }

Pattern mean_last(Pattern a) { return operation(Op::mean, {std::move(a)}).where(reduces_last_dim); }

Pattern concat_last(std::vector<Pattern> parts) {
  return operation(Op::concat, std::move(parts)).where([](const Candidate& candidate) {
    const auto& dims = candidate.canonical().dims;
    return dims.size() == 1 && is_last_dim(candidate, dims[0]) ? ok() : because("it must concatenate the last dim");
  });
}

Pattern gelu(Pattern a, const std::string& approximate) {
  return operation(Op::gelu, {std::move(a)}).where([approximate](const Candidate& candidate) {
    const graph::Value* value = candidate.canonical().attribute("approximate");
    const auto* text = value == nullptr ? nullptr : std::get_if<std::string>(value);
    return text != nullptr && *text == approximate ? ok() : because("approximate must be '" + approximate + "'");
  });
}

Pattern slice_last(Pattern a, Part part) {
  return operation(Op::slice, {std::move(a)}).where([part](const Candidate& candidate) {
    return takes_part(candidate, part);
  });
}

Pattern either(std::string name, std::vector<Pattern> alternatives) {
  Pattern::Data data = data_of(Pattern::Kind::either, std::move(name));
  data.children = std::move(alternatives);
  return Pattern(std::move(data));
}

Pattern through(std::string name, Pattern inner, std::vector<Op> ops, Predicate accepts) {
  return chain(std::move(name), std::move(inner), std::move(ops), std::move(accepts), kAnyLength);
}

bool is_lossless_upcast(const Candidate& candidate) { return static_cast<bool>(widens(candidate)); }

Pattern widened(Pattern inner) { return through("widened", std::move(inner), {Op::cast}, widens); }

Pattern rounded(std::string name, Pattern inner) {
  return chain(std::move(name), std::move(inner), {Op::cast}, narrows, 1);
}

}  // namespace liger::rewrite
