# The table of rules: every pattern_rewrites/<name>.cpp defines `Rule <name>()` in liger::rewrite.
# Registration is generated from the file names, so there are no static initialisers.

function(liger_generate_rule_table output)
  set(declarations "")
  set(entries "")
  foreach(file ${ARGN})
    get_filename_component(name ${file} NAME_WE)
    string(APPEND declarations "Rule ${name}();\n")
    string(APPEND entries "      ${name}(),\n")
  endforeach()
  file(CONFIGURE OUTPUT ${output} @ONLY CONTENT
"// Generated from the file names in pattern_rewrites/.
#include \"rewrite/rule_table.h\"

namespace liger::rewrite {

@declarations@
const std::vector<Rule>& all_rules() {
  static const std::vector<Rule> rules = {
@entries@  };
  return rules;
}

}  // namespace liger::rewrite
")
endfunction()
