// The rules of pattern_rewrites/, in alphabetical order. The table is generated: file name = function name.
#pragma once

#include <vector>

#include "rewrite/rule.h"

namespace liger::rewrite {

const std::vector<Rule>& all_rules();

}  // namespace liger::rewrite
