"""The bench's own arithmetic; the measuring itself is `make bench-merge`."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from bench import merge as bench
from halops.merge.adapter import read_adapter, resolve_targets
from halops.merge.tensors import read_model


def test_the_model_has_qwens_dimensions() -> None:
    shapes = bench.shapes(bench.LAYERS)
    assert len(shapes) == 339
    assert sum(map(math.prod, shapes.values())) == 7_615_616_512  # as the hub counts Qwen2.5-7B-Instruct


def test_base_and_adapter_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"HIDDEN": 64, "VOCAB": 200, "SHARD_BYTES": 30_000}.items():
        monkeypatch.setattr(bench, name, value)
    monkeypatch.setattr(bench, "MODULES", dict.fromkeys(bench.MODULES, (64, 64)))
    bench.make_base(tmp_path / "base", 2)
    bench.make_adapter(tmp_path / "adapter", 2)
    base = read_model(tmp_path / "base")
    assert len({tensor.file for tensor in base.values()}) > 2
    assert sum(tensor.size for tensor in base.values()) == sum(2 * math.prod(s) for s in bench.shapes(2).values())
    assert len(resolve_targets(read_adapter(tmp_path / "adapter"), base, {})) == len(base)


def test_bars_and_table() -> None:
    def run(name: str, seconds: float, rss: float = 1e8) -> bench.Run:
        return bench.Run(name, seconds, seconds, int(rss), 0.0)

    good = [run("cp", 10), run("halops", 20), run("peft", 75), run("halops", 30), run("cp", 10)]
    assert [passed for _, passed in bench.bars(good)] == [True, True, True]
    assert bench.bars(good)[0][0].startswith("3.0 x faster than PEFT")
    bad = [run("cp", 9.9), run("halops", 25, 4e9), run("peft", 74.9)]
    assert [passed for _, passed in bench.bars(bad)] == [False, False, False]
    assert "| halops | 20.0, 30.0 | 25.0 |" in bench.table(good, 1)
