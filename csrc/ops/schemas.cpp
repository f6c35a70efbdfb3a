// Every op of the library, in one place. Kernels are registered per device by the other files of this folder, gradients
// and fake kernels in Python. Shapes, dtypes and formulas are documented there.
#include "ops/stable.h"

STABLE_TORCH_LIBRARY(liger, m) {
  m.def(
      "rms_norm(Tensor hidden_states, Tensor? weight, float eps, *, float weight_offset=0.0, "
      "bool round_before_weight=False, ScalarType? out_dtype=None) -> Tensor");
  m.def(
      "rms_norm_forward(Tensor hidden_states, Tensor? weight, float eps, *, float weight_offset=0.0, "
      "bool round_before_weight=False, ScalarType? out_dtype=None) -> (Tensor out, Tensor rstd)");
  m.def(
      "rms_norm_backward(Tensor grad_out, Tensor? grad_sum, Tensor hidden_states, Tensor? weight, Tensor rstd, *, "
      "float weight_offset, bool round_before_weight, bool needs_weight_grad, bool needs_out=False) "
      "-> (Tensor grad_hidden_states, Tensor grad_weight, Tensor out)");
  m.def(
      "add_rms_norm(Tensor hidden_states, Tensor residual, Tensor? weight, float eps, *, float weight_offset=0.0, "
      "bool round_before_weight=False, ScalarType? out_dtype=None) -> (Tensor out, Tensor sum)");
  m.def(
      "add_rms_norm_forward(Tensor hidden_states, Tensor residual, Tensor? weight, float eps, *, "
      "float weight_offset=0.0, bool round_before_weight=False, ScalarType? out_dtype=None) "
      "-> (Tensor out, Tensor sum, Tensor rstd)");

  m.def(
      "rope(Tensor query, Tensor key, Tensor cos, Tensor sin, *, bool contiguous_query=False, "
      "bool contiguous_key=False) -> (Tensor, Tensor)");
  m.def(
      "rope_forward(Tensor query, Tensor key, Tensor cos, Tensor sin, *, bool contiguous_query=False, "
      "bool contiguous_key=False) -> (Tensor, Tensor)");
  m.def(
      "rope_backward(Tensor grad_query, Tensor grad_key, Tensor cos, Tensor sin, *, int[] query_order=[], "
      "int[] key_order=[]) -> (Tensor, Tensor)");

  m.def(
      "norm_rope(Tensor query, Tensor key, Tensor? query_weight, Tensor? key_weight, Tensor cos, Tensor sin, "
      "float eps, *, float weight_offset=0.0, bool contiguous_query=False, bool contiguous_key=False) "
      "-> (Tensor, Tensor)");
  m.def(
      "norm_rope_forward(Tensor query, Tensor key, Tensor? query_weight, Tensor? key_weight, Tensor cos, Tensor sin, "
      "float eps, *, float weight_offset=0.0, bool contiguous_query=False, bool contiguous_key=False) "
      "-> (Tensor, Tensor)");
  m.def(
      "norm_rope_backward(Tensor grad_query_out, Tensor grad_key_out, Tensor query, Tensor key, Tensor? query_weight, "
      "Tensor? key_weight, Tensor cos, Tensor sin, float eps, *, float weight_offset, bool needs_query_weight_grad, "
      "bool needs_key_weight_grad) "
      "-> (Tensor grad_query, Tensor grad_key, Tensor grad_query_weight, Tensor grad_key_weight)");

  m.def("glu(Tensor gate, Tensor up, *, str activation) -> Tensor");
  m.def("glu_forward(Tensor gate, Tensor up, *, str activation) -> Tensor");
  m.def(
      "glu_backward(Tensor grad_out, Tensor gate, Tensor up, *, str activation, bool needs_out=False) "
      "-> (Tensor grad_gate, Tensor grad_up, Tensor out)");
  m.def(
      "glu_backward_(Tensor(a!) grad_out, Tensor gate, Tensor up, *, str activation) "
      "-> (Tensor grad_gate, Tensor grad_up)");
  m.def("glu_backward_all_(Tensor(a!) grad_out, Tensor(b!) gate, Tensor(c!) up, *, str activation) -> ()");
  m.def("glu_packed(Tensor gate_up, *, str activation, bool gate_first=True) -> Tensor");
  m.def("glu_packed_forward(Tensor gate_up, *, str activation, bool gate_first=True) -> Tensor");
  m.def(
      "glu_packed_backward(Tensor grad_out, Tensor gate_up, *, str activation, bool gate_first, "
      "bool needs_out=False) -> (Tensor grad_gate_up, Tensor out)");
  m.def(
      "glu_packed_backward_(Tensor(a!) grad_out, Tensor gate_up, *, str activation, bool gate_first) "
      "-> Tensor grad_gate_up");
  m.def("glu_packed_backward_all_(Tensor(a!) grad_out, Tensor(b!) gate_up, *, str activation, bool gate_first) -> ()");

  m.def(
      "cross_entropy(Tensor logits, Tensor target, *, int ignore_index=-100, str reduction=\"mean\", "
      "float label_smoothing=0.0, float logit_scale=1.0, float softcap=0.0, float z_loss=0.0, "
      "ScalarType? out_dtype=None) -> Tensor");
  m.def(
      "cross_entropy_forward(Tensor logits, Tensor target, *, int ignore_index=-100, str reduction=\"mean\", "
      "float label_smoothing=0.0, float logit_scale=1.0, float softcap=0.0, float z_loss=0.0, "
      "ScalarType? out_dtype=None) -> (Tensor loss, Tensor lse)");
  m.def(
      "cross_entropy_backward(Tensor grad_loss, Tensor logits, Tensor target, Tensor lse, *, int ignore_index=-100, "
      "str reduction=\"mean\", float label_smoothing=0.0, float logit_scale=1.0, float softcap=0.0, "
      "float z_loss=0.0) -> Tensor");
  m.def("mm(Tensor a, Tensor b) -> Tensor");
  m.def("addmm(Tensor addend, Tensor a, Tensor b) -> Tensor");
  m.def("mm_glu(Tensor a, Tensor gate_b, Tensor up_b, *, str activation) -> (Tensor gate, Tensor up, Tensor out)");
  m.def(
      "mm_glu_backward(Tensor a, Tensor b, Tensor gate, Tensor up, *, str activation) "
      "-> (Tensor grad_gate, Tensor grad_up, Tensor out)");
  m.def("mm_glu_backward_(Tensor a, Tensor b, Tensor(a!) gate, Tensor(b!) up, *, str activation) -> Tensor out");
  m.def("mm_glu_packed(Tensor a, Tensor b, *, str activation, bool gate_first=True) -> (Tensor gate_up, Tensor out)");
  m.def(
      "mm_glu_packed_backward(Tensor a, Tensor b, Tensor gate_up, *, str activation, bool gate_first=True) "
      "-> (Tensor grad_gate_up, Tensor out)");
  m.def(
      "mm_glu_packed_backward_(Tensor a, Tensor b, Tensor(a!) gate_up, *, str activation, bool gate_first=True) "
      "-> Tensor out");
  m.def(
      "linear_cross_entropy(Tensor hidden_states, Tensor weight, Tensor target, Tensor? bias=None, *, "
      "int ignore_index=-100, str reduction=\"mean\", float label_smoothing=0.0, float logit_scale=1.0, "
      "float softcap=0.0, float z_loss=0.0, ScalarType? out_dtype=None) -> Tensor");
  m.def(
      "linear_cross_entropy_with_logits(Tensor hidden_states, Tensor weight, Tensor target, Tensor? bias=None, *, "
      "int ignore_index=-100, str reduction=\"mean\", float label_smoothing=0.0, float logit_scale=1.0, "
      "float softcap=0.0, float z_loss=0.0, ScalarType? out_dtype=None) -> (Tensor loss, Tensor logits)");
  m.def(
      "linear_cross_entropy_forward(Tensor hidden_states, Tensor weight, Tensor target, Tensor? bias=None, *, "
      "int ignore_index=-100, str reduction=\"mean\", float label_smoothing=0.0, float logit_scale=1.0, "
      "float softcap=0.0, float z_loss=0.0, ScalarType? out_dtype=None, bool needs_grad_hidden_states=False, "
      "bool needs_grad_weight=False, bool needs_grad_bias=False, int chunk_rows=0) "
      "-> (Tensor loss, Tensor lse, Tensor grad_hidden_states, Tensor grad_weight, Tensor grad_bias, "
      "Tensor grad_scale)");
  m.def("linear_cross_entropy_scale(Tensor gradient, Tensor scale, *, ScalarType dtype) -> Tensor");
  m.def(
      "linear_cross_entropy_with_logits_forward(Tensor hidden_states, Tensor weight, Tensor target, "
      "Tensor? bias=None, *, int ignore_index=-100, str reduction=\"mean\", float label_smoothing=0.0, "
      "float logit_scale=1.0, float softcap=0.0, float z_loss=0.0, ScalarType? out_dtype=None) "
      "-> (Tensor loss, Tensor logits, Tensor lse)");
  m.def(
      "linear_cross_entropy_backward(Tensor? grad_loss, Tensor? grad_logits, Tensor hidden_states, Tensor weight, "
      "Tensor target, Tensor? bias, Tensor? logits, Tensor lse, *, int ignore_index=-100, str reduction=\"mean\", "
      "float label_smoothing=0.0, float logit_scale=1.0, float softcap=0.0, float z_loss=0.0, "
      "bool needs_grad_hidden_states=True, bool needs_grad_weight=True, bool needs_grad_bias=False, "
      "int chunk_rows=0) -> (Tensor grad_hidden_states, Tensor grad_weight, Tensor grad_bias)");
}
