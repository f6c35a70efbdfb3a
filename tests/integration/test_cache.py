"""Inductor's caches across processes: they hit for the same rewriting, and for nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._inductor.custom_graph_pass import CustomGraphPass

from liger_compile import _version
from liger_compile.cache_tag import TaggedPass, tagged, version_tag

TRAIN = Path(__file__).with_name("train.py")
OTHER_VERSION = """
import runpy, sys
import liger_compile._version
liger_compile._version.__version__ = "999.0"
sys.path.insert(0, sys.argv[1].rpartition("/")[0])
runpy.run_path(sys.argv[1], run_name="__main__")
"""


class UsersPass(CustomGraphPass):
    def __init__(self, uuid: str | None = "users") -> None:
        self.seen: list[torch.fx.Graph] = []
        self._uuid = uuid

    def __call__(self, graph: torch.fx.Graph) -> None:
        self.seen.append(graph)

    def uuid(self) -> Any:
        return self._uuid


def cache_use(done: Any) -> tuple[int, int, int]:
    result = json.loads(done.stdout)
    return result["hits"], result["misses"], result["bypasses"]


def test_a_second_process_hits_and_another_version_or_rewriting_misses(run_script: Any, tmp_path: Path) -> None:
    other = tmp_path / "other_version.py"
    other.write_text(OTHER_VERSION)
    hit, miss = (1, 0, 0), (0, 1, 0)

    def use(script: Path, *arguments: str, **variables: str) -> tuple[int, int, int]:
        cache = str(tmp_path / "cache")
        return cache_use(run_script(script, *arguments, TORCHINDUCTOR_CACHE_DIR=cache, **variables))

    assert use(TRAIN, LIGER_COMPILE="1") == miss
    assert use(TRAIN, LIGER_COMPILE="1") == hit
    assert use(other, str(TRAIN), LIGER_COMPILE="1") == miss
    assert use(TRAIN, LIGER_COMPILE="1", LIGER_COMPILE_DISABLE="glu") == miss
    assert use(TRAIN) == miss
    # Not rewritten is plain Inductor's graph, with its entries.
    assert use(TRAIN, LIGER_COMPILE="1", LIGER_COMPILE_REWRITE="none") == hit


def test_the_tag_changes_with_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    before = tagged({})["post_grad_custom_post_pass"].uuid()
    monkeypatch.setattr(_version, "__version__", "999.0")
    assert version_tag().startswith("liger-compile 999.0 ")
    assert tagged({})["post_grad_custom_post_pass"].uuid() != before


@pytest.mark.parametrize("where", ["options", "config"])
def test_a_pass_of_the_user_still_runs(where: str) -> None:
    users = UsersPass()
    if where == "options":
        patches = tagged({"post_grad_custom_post_pass": users})
    else:
        with torch._inductor.config.patch(post_grad_custom_post_pass=users):
            patches = tagged({"max_autotune": True})
    composed = patches["post_grad_custom_post_pass"]
    assert isinstance(composed, TaggedPass)
    assert composed.uuid() == (version_tag(), "users")
    graph = torch.fx.Graph()
    composed(graph)
    assert users.seen == [graph]


@pytest.mark.parametrize("users", [lambda graph: None, UsersPass(None)])
def test_a_pass_that_turns_the_caches_off_keeps_them_off(users: Any) -> None:
    assert tagged({"post_grad_custom_post_pass": users}) == {"post_grad_custom_post_pass": users}
