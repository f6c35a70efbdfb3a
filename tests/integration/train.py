"""A training script that knows nothing of liger-compile; the tests run it in a process of its own."""

import json
import sys

import torch
from small_models import batch, block

model = block()
compiled = torch.compile(model)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
losses = []
for _ in range(3):
    loss = compiled(batch()).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    losses.append(loss.item())

counters = torch._dynamo.utils.counters
result = {
    "losses": losses,
    "wrapped": hasattr(torch._TorchCompileInductorWrapper.__call__, "__wrapped__"),
    "modules": sorted(name for name in sys.modules if name.startswith("liger_compile")),
    "hits": counters["aot_autograd"]["autograd_cache_hit"],
    "misses": counters["aot_autograd"]["autograd_cache_miss"],
    "bypasses": counters["aot_autograd"]["autograd_cache_bypass"],
}
print(json.dumps(result))
