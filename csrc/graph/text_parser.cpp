#include <cctype>
#include <charconv>
#include <limits>
#include <optional>
#include <stdexcept>

#include "graph/text.h"

namespace liger::graph {
namespace {

constexpr int kMaxNesting = 64;

// One line of text, read from left to right.
class LineParser {
 public:
  LineParser(std::string_view line, int number, const std::unordered_map<std::string, NodeId>& names)
      : text_(line), number_(number), names_(names) {}

  Node node() {
    if (accept_word("return")) return output();
    Node node;
    expect('%', "'%' or 'return'");
    node.name = identifier("a node name");
    if (names_.count(node.name) != 0) fail("a new node name", "%" + node.name + " a second time");
    if (accept(':')) meta(node);
    expect('=', "'='");
    target(node);
    arguments(node);
    node.mutates = accept_word("mutates");
    origin(node);
    return node;
  }

 private:
  [[noreturn]] void fail(const std::string& expected, const std::string& actual) const {
    throw std::invalid_argument("line " + std::to_string(number_) + ": expected " + expected + ", found " + actual);
  }
  [[noreturn]] void fail(const std::string& expected) {
    skip_spaces();
    fail(expected, at_end() ? "the end of the line" : "'" + std::string(rest().substr(0, 20)) + "'");
  }

  std::string_view rest() const { return text_.substr(position_); }
  bool at_end() const { return position_ >= text_.size(); }
  char peek() const { return at_end() ? '\0' : text_[position_]; }
  void skip_spaces() {
    while (!at_end() && std::isspace(static_cast<unsigned char>(peek())) != 0) ++position_;
    if (rest().substr(0, 2) == "//") position_ = text_.size();
  }
  bool accept(char c) {
    skip_spaces();
    if (at_end() || peek() != c) return false;
    ++position_;
    return true;
  }
  bool accept_text(std::string_view expected) {
    skip_spaces();
    if (rest().substr(0, expected.size()) != expected) return false;
    position_ += expected.size();
    return true;
  }
  static bool is_word_char(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; }
  bool accept_word(std::string_view word) {
    skip_spaces();
    const std::size_t end = position_ + word.size();
    if (end < text_.size() && is_word_char(text_[end])) return false;
    return accept_text(word);
  }
  void expect(char c, const std::string& description) {
    if (!accept(c)) fail(description);
  }
  std::string take_while(bool (*predicate)(char)) {
    const std::size_t start = position_;
    while (!at_end() && predicate(peek())) ++position_;
    return std::string(text_.substr(start, position_ - start));
  }
  std::string identifier(const std::string& description) {
    skip_spaces();
    const bool starts_well = !at_end() && is_word_char(peek()) && std::isdigit(static_cast<unsigned char>(peek())) == 0;
    if (!starts_well) fail(description);
    return take_while(is_word_char);
  }

  Node output() {
    Node node;
    node.kind = NodeKind::output;
    node.name = node.target = "output";
    skip_spaces();
    if (!at_end()) node.args.push_back(value());
    expect_end();
    return node;
  }
  void expect_end() {
    skip_spaces();
    if (!at_end()) fail("the end of the line");
  }

  // After the colon: "bfloat16[2, s0]{...} on cuda:0 grad" or "size(s0)".
  void meta(Node& node) {
    if (accept_text("size(")) {
      node.size = size(")");
      expect(')', "')'");
      return;
    }
    const std::string dtype = identifier("a dtype or size(...)");
    TensorMeta tensor;
    tensor.dtype = dtype_from_name(dtype);
    if (tensor.dtype == DType::other && dtype != "other") fail("a dtype", "'" + dtype + "'");
    expect('[', "'[' and a shape");
    tensor.shape = sizes(']');
    tensor.strides = accept('{') ? sizes('}') : contiguous_strides(tensor.shape);
    if (tensor.strides.size() != tensor.shape.size()) {
      fail(std::to_string(tensor.shape.size()) + " strides", std::to_string(tensor.strides.size()));
    }
    if (accept_word("on")) {
      skip_spaces();
      tensor.device = take_while([](char c) { return is_word_char(c) || c == ':'; });
    }
    tensor.requires_grad = accept_word("grad");
    node.tensor = std::move(tensor);
  }

  std::vector<SymInt> sizes(char close) {
    std::vector<SymInt> values;
    if (accept(close)) return values;
    do {
      values.push_back(size(close == ']' ? ",]" : ",}"));
    } while (accept(','));
    expect(close, std::string("',' or '") + close + "'");
    return values;
  }

  // A number, or an expression up to one of `stops` outside parentheses.
  SymInt size(std::string_view stops) {
    skip_spaces();
    const std::size_t start = position_;
    for (int depth = 0; !at_end() && (depth > 0 || stops.find(peek()) == std::string_view::npos); ++position_) {
      if (peek() == '(') ++depth;
      if (peek() == ')') --depth;
    }
    std::string_view token = text_.substr(start, position_ - start);
    while (!token.empty() && token.back() == ' ') token.remove_suffix(1);
    if (token.empty()) fail("a size");
    std::int64_t constant = 0;
    const auto [end, error] = std::from_chars(token.data(), token.data() + token.size(), constant);
    if (error == std::errc() && end == token.data() + token.size()) return SymInt(constant);
    return SymInt::symbolic(std::string(token));
  }

  void target(Node& node) {
    skip_spaces();
    if (accept_text("attr:")) {
      node.kind = NodeKind::get_attr;
    } else if (accept_text("module:")) {
      node.kind = NodeKind::call_module;
    } else if (accept('.')) {
      node.kind = NodeKind::call_method;
    }
    node.target = take_while([](char c) { return is_word_char(c) || c == '.' || c == ':' || c == '<' || c == '>'; });
    if (node.target.empty()) fail("an operation");
    if (node.kind == NodeKind::call_function && node.target == "placeholder") {
      node.kind = NodeKind::placeholder;
      node.target.clear();
    }
  }

  void arguments(Node& node) {
    expect('(', "'(' after the operation");
    if (accept(')')) return;
    do {
      const std::string keyword = accept_keyword();
      if (!keyword.empty()) {
        node.kwargs.emplace_back(keyword, value());
      } else if (node.kwargs.empty()) {
        node.args.push_back(value());
      } else {
        fail("a keyword argument after the first one");
      }
    } while (accept(','));
    expect(')', "',' or ')'");
  }

  std::string accept_keyword() {
    skip_spaces();
    const std::size_t start = position_;
    std::string name = take_while(is_word_char);
    if (!name.empty() && std::isdigit(static_cast<unsigned char>(name[0])) == 0 && accept('=')) return name;
    position_ = start;
    return "";
  }

  void origin(Node& node) {
    if (accept('@')) {
      skip_spaces();
      node.module_path = take_while([](char c) { return std::isspace(static_cast<unsigned char>(c)) == 0; });
      if (node.module_path.empty()) fail("a module path");
      if (node.module_path == "-") node.module_path.clear();
      skip_spaces();
      node.source = std::string(rest().substr(0, rest().find(" //")));
      while (!node.source.empty() && std::isspace(static_cast<unsigned char>(node.source.back())) != 0) {
        node.source.pop_back();
      }
      position_ = text_.size();
    }
    expect_end();
  }

  Value value() {
    if (++nesting_ > kMaxNesting) fail("at most " + std::to_string(kMaxNesting) + " nested values");
    skip_spaces();
    Value result = None{};
    if (peek() != ':') result = simple_value();
    if (accept(':')) result = slice(std::move(result));
    --nesting_;
    return result;
  }

  Value slice(Value start) {
    auto slice = std::make_shared<Slice>();
    slice->start = std::move(start);
    if (!at_slice_end()) slice->stop = simple_value();
    if (accept(':') && !at_slice_end()) slice->step = simple_value();
    return Value(std::shared_ptr<const Slice>(std::move(slice)));
  }
  bool at_slice_end() {
    skip_spaces();
    return at_end() || std::string_view(",:)]").find(peek()) != std::string_view::npos;
  }

  Value simple_value() {
    skip_spaces();
    const char c = peek();
    if (c == '%') return reference();
    if (c == '"') return delimited('"');
    if (c == '<') return Opaque{delimited('>')};
    if (c == '(' || c == '[') return list();
    if (accept_text("...")) return Ellipsis{};
    if (std::isdigit(static_cast<unsigned char>(c)) != 0 || c == '-' || c == '.') return number();
    return word();
  }

  Value reference() {
    expect('%', "'%'");
    const std::string name = identifier("a node name");
    const auto found = names_.find(name);
    if (found == names_.end()) fail("a node defined above", "%" + name);
    return NodeRef{found->second};
  }

  // Text up to the closing character, with backslash escapes.
  std::string delimited(char close) {
    std::string text;
    for (++position_; !at_end() && peek() != close; ++position_) {
      if (peek() == '\\' && position_ + 1 < text_.size()) {
        ++position_;
        text += peek() == 'n' ? '\n' : peek();
      } else {
        text += peek();
      }
    }
    if (at_end()) fail(std::string("a closing ") + close);
    ++position_;
    return text;
  }

  Value list() {
    auto list = std::make_shared<List>();
    list->is_tuple = accept('(');
    if (!list->is_tuple) expect('[', "'['");
    const char close = list->is_tuple ? ')' : ']';
    while (!accept(close)) {
      list->items.push_back(value());
      if (accept(',')) continue;
      expect(close, std::string("',' or '") + close + "'");
      break;
    }
    return Value(std::shared_ptr<const List>(std::move(list)));
  }

  Value number() {
    const std::size_t start = position_;
    if (accept_text("-inf")) return -std::numeric_limits<double>::infinity();
    const std::string token = take_while([](char c) { return is_word_char(c) || c == '.' || c == '-' || c == '+'; });
    const char* const last = token.data() + token.size();
    std::int64_t integer = 0;
    if (const auto [end, error] = std::from_chars(token.data(), last, integer); error == std::errc() && end == last) {
      return integer;
    }
    double real = 0;
    if (const auto [end, error] = std::from_chars(token.data(), last, real); error == std::errc() && end == last) {
      return real;
    }
    position_ = start;
    fail("a number");
  }

  Value word() {
    const std::string name = identifier("a value");
    if (name == "None") return None{};
    if (name == "True") return true;
    if (name == "False") return false;
    if (name == "inf") return std::numeric_limits<double>::infinity();
    if (name == "nan") return std::numeric_limits<double>::quiet_NaN();
    const DType dtype = dtype_from_name(name);
    if (dtype == DType::other && name != "other") fail("a value", "'" + name + "'");
    return dtype;
  }

  std::string_view text_;
  std::size_t position_ = 0;
  int number_;
  int nesting_ = 0;
  const std::unordered_map<std::string, NodeId>& names_;
};

bool is_blank_or_comment(std::string_view line) {
  const std::size_t start = line.find_first_not_of(" \t\r");
  return start == std::string_view::npos || line[start] == '#' || line.substr(start, 2) == "//";
}

}  // namespace

Graph parse(std::string_view text) {
  Graph graph;
  std::unordered_map<std::string, NodeId> names;
  for (int number = 1; !text.empty(); ++number) {
    const std::size_t newline = text.find('\n');
    const std::string_view line = text.substr(0, newline);
    text = newline == std::string_view::npos ? std::string_view{} : text.substr(newline + 1);
    if (is_blank_or_comment(line)) continue;
    if (!graph.nodes.empty() && graph.nodes.back().kind == NodeKind::output) {
      throw std::invalid_argument("line " + std::to_string(number) + ": expected nothing after return");
    }
    Node node = LineParser(line, number, names).node();
    std::string name = node.name;
    names.emplace(std::move(name), graph.append(std::move(node)));
  }
  return graph;
}

}  // namespace liger::graph
