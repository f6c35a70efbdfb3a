// Cross entropy of logits that come from elsewhere: loss = reduce(logsumexp(logits) - logits[target]).
//
// Up-casts and flattening are absorbed: the kernel reads the logits in their own dtype and never makes a float32 copy.
#include "shared.h"

namespace liger::rewrite {

Rule cross_entropy() {
  auto logits = tensor("logits"), target = tensor("targets"), class_weight = optional_tensor("class weight");
  auto rows = through("flattened", logits, {Op::cast, Op::reshape}, keeps_rows);
  auto loss = operation(Op::cross_entropy, {rows, target, class_weight});

  return Rule("cross_entropy")
      .match(loss)
      .near_miss_once(loss)
      .require([=](const Match& m) { return require_plain_cross_entropy(m, loss); })
      .require([=](const Match& m) { return require_kernel_dtype(m[logits]); })
      .replace([=](const Match& m) {
        Expr call{"liger::cross_entropy", {m(logits), m(target)}, {}};
        add_cross_entropy_attributes(call, m, loss);
        return Replacement{call, "cross_entropy, " + reduction_of(m, loss) + ", logits " + brief(m.tensor(logits))};
      });
}

}  // namespace liger::rewrite
