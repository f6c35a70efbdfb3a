"""The C++ module: graphs, rules and the mask algebra. Its functions' docstrings are in the module itself."""

from typing import Any

class Graph:
    node_names: list[str]
    def __len__(self) -> int: ...

class NodeName:
    name: str

class DTypeName:
    name: str

class Expr:
    op: str
    args: list[Any]
    kwargs: dict[str, Any]

class RunCondition:
    kind: str
    node: str
    dim: int
    is_outer: bool

class Edit:
    rule: str
    record: int
    anchor: str
    call: Expr
    otherwise: Expr | None
    results: list[tuple[int, str]]
    interior: list[str]
    unused: list[str]
    on_demand: list[str]
    on_demand_from: str
    conditions: list[RunCondition]

class Record:
    rule: str
    kind: str
    node: str
    module_path: str
    source: str
    detail: str
    reason: str
    nodes: int

class RewriteResult:
    edits: list[Edit]
    records: list[Record]
    errors: list[tuple[str, str]]

class Fact: ...

class Context:
    facts: dict[str, Fact]
    is_subgraph: bool
    grouped_cuda: bool
    block_attention_device: str
    block_attention_queries: int
    logits_on_demand: bool
    why_logits_kept: str

class MaskTerm:
    kind: str
    condition: str
    source: str
    is_whole_from_zero: bool
    size: int
    dim: int

def import_graph(graph_module: Any, with_locations: bool = ...) -> Graph: ...
def location_of(meta: dict[str, Any]) -> tuple[str, str]: ...
def parse_graph(text: str) -> Graph: ...
def print_graph(graph: Graph) -> str: ...
def canonical_graph(graph: Graph) -> dict[str, str]: ...
def rule_names() -> list[str]: ...
def facts_of(graph: Graph, names: list[str], *, facts: dict[str, Fact] = ...) -> dict[str, Fact]: ...
def read_mask(graph: Graph, node: str, scores: list[int]) -> list[MaskTerm] | str: ...
def rewrite(
    graph: Graph,
    *,
    disable: list[str] = ...,
    strict: bool = ...,
    context: Context = ...,
) -> RewriteResult: ...
