"""The training bench's own arithmetic: the same rows for everybody, the order of processes, the joined table."""

from __future__ import annotations

import json
import math
import os
import sys
import threading
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import TrainerState

from bench.train import longest as longest_row
from bench.train.__main__ import environment, order, summary
from bench.train.cells import CELLS, CONTENDERS, USUAL, cell_of, lengths, needs, rows
from bench.train.equality import classic
from bench.train.idle import said
from bench.train.meter import Meter
from bench.train.shares import Share, shares, spread
from bench.train.table import joined, longest, plot, read, table
from bench.train.timeline import Gap, Ran, covered, gaps, top


def test_every_cell_has_its_contenders() -> None:
    assert set(USUAL) == set(CELLS)
    assert {name for names in USUAL.values() for name in names} <= set(CONTENDERS)
    assert CELLS["1024"].rows_a_step == 8
    assert cell_of("row-12288").longest == 12288


def test_everybody_gets_the_same_rows() -> None:
    assert rows(CELLS["short"], 152064) == rows(CELLS["short"], 152064)
    counted = lengths(CELLS["short"])
    assert sum(counted) / len(counted) == pytest.approx(390, rel=0.1)
    assert set(lengths(CELLS["1024"])) == {1024}
    assert len(lengths(CELLS["a100"])) >= 16 * 12


def test_the_timed_steps_come_again_to_be_profiled() -> None:
    short = CELLS["short"]
    once, twice = rows(short, 152064), rows(replace(short, again=(12, 17)), 152064)
    assert twice[: 17 * 8] == once[: 17 * 8]
    assert twice[17 * 8 : 22 * 8] == once[12 * 8 : 17 * 8]
    assert twice[22 * 8 :] == once[17 * 8 :]
    assert rows(replace(short, skip=8, again=(12, 17)), 152064) == twice[8 * 8 :]


def test_busy_is_the_time_in_which_anything_runs() -> None:
    assert covered([]) == 0
    assert covered([Ran(0, 2, "a"), Ran(5, 6, "b")]) == 3
    assert covered([Ran(4, 9, "a"), Ran(0, 5, "b"), Ran(1, 2, "c"), Ran(9, 10, "d")]) == 10


def test_the_kernels_that_took_longest() -> None:
    kernels = [Ran(0, 2000, "a"), Ran(10, 3510, "b"), Ran(4000, 6000, "a"), Ran(1, 2, "c")]
    assert top(kernels, 2) == [("a", 4.0, 2), ("b", 3.5, 1)]
    assert top([]) == []


def test_gaps_between_kernels() -> None:
    kernels = [Ran(110, 120, "d"), Ran(10, 20, "a"), Ran(12, 40, "b"), Ran(100, 105, "c")]
    assert gaps(kernels) == [Gap(60, 30, "b", "c"), Gap(5, 95, "c", "d")]
    assert gaps([]) == []
    text = said(kernels, 7, 0.2, 1)
    assert text.startswith("7 tokens: 0.2 ms, kernels within 0.1, of which 0.1 idle\n    0.06 ms at    0.0  b -> c\n")


def test_the_meter_weighs_the_same_steps() -> None:
    meter = Meter(warm=1, timed=2, profiled=2)
    state = TrainerState()
    for step, tokens in enumerate((50, 10, 30, 10, 30)):
        state.global_step = step
        meter.on_step_begin(None, state, None)
        meter.add(tokens)
        state.global_step = step + 1
        meter.on_step_end(None, state, None)
    assert meter.steps == 5
    assert meter.counted == [10, 30]
    meter.seconds, meter.busy_seconds, meter.busy_tokens = [0.2, 0.4], 0.5, 40
    assert meter.result()["busy_ms_per_token"] == 12.5
    assert meter.result()["wall_over_busy"] == pytest.approx(1.2)


@pytest.mark.parametrize(("warm", "before"), [(5, 3), (2, 0), (1, 0)])
def test_the_last_steps_to_warm_up_are_taken_alone(warm: int, before: int) -> None:
    state, paused = TrainerState(), list[int]()
    meter = Meter(warm=warm, timed=2, alone=lambda: paused.append(state.global_step))
    for state.global_step in range(warm):
        meter.on_step_begin(None, state, None)
    assert paused == [before]


def test_a_process_needs_its_cap_or_what_it_took_of_a_whole_card() -> None:
    assert needs(CELLS["1024"], CONTENDERS["trl"]) == needs(CELLS["1024"], CONTENDERS["ours"]) == 8.5
    assert needs(CELLS["a100"], CONTENDERS["trl"]) == 14
    assert needs(CELLS["a100"], CONTENDERS["ours"]) == math.inf


def test_gpus_of_one_host_share_its_processors(tmp_path: Path) -> None:
    first, second = shares(["0", "1"], {0, 1, 2, 3, 8})
    assert (first.processors, second.processors) == ({0, 1}, {2, 3})
    assert [share.processors for share in shares(["4", "5"], {3})] == [{3}, {3}]
    one, other = (share.environment(tmp_path) for share in (first, second))
    assert one["CUDA_VISIBLE_DEVICES"] == "0"
    assert all(one[name] != other[name] for name in one)


def test_cells_go_to_whichever_gpu_is_free() -> None:
    """The first takes one cell until the other has done all that are left."""
    here, ran, done = os.sched_getaffinity(0), dict[str, str](), threading.Event()

    def run(cells: Iterable[str], share: Share) -> None:
        assert os.sched_getaffinity(0) == share.processors
        for cell in cells:
            ran[cell] = share.gpu
            if cell == "a":
                assert done.wait(30)
            elif cell == "c":
                done.set()

    spread(["a", "b", "c"], shares(["0", "1"], here), run)
    assert ran["b"] == ran["c"] != ran["a"]
    assert os.sched_getaffinity(0) == here


def test_a_cell_that_fails_ends_the_others_queue() -> None:
    def run(cells: Iterable[str], share: Share) -> None:
        raise RuntimeError(next(iter(cells)))

    with pytest.raises(RuntimeError, match="a"):
        spread(["a"], shares(["0"], os.sched_getaffinity(0)), run)


def test_a_b_b_a() -> None:
    assert order(["ours", "unsloth"]) == ["ours", "unsloth", "unsloth", "ours"]


def test_each_code_has_a_site_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "here")
    sites = {"unsloth": "far", "all": "near"}
    assert environment(sites, "unsloth")["PYTHONPATH"] == "far:here"
    assert environment(sites, "trl")["PYTHONPATH"] == "near:here"
    assert environment({}, "ours")["PYTHONPATH"] == "here"


def line(contender: str, rate: float, **more: object) -> dict[str, object]:
    made = {
        "cell": "1024", "contender": contender, "dropout": 0.0, "device": "card", "versions": {},
        "tokens_per_second": rate, "busy_ms_per_token": 0.08, "wall_over_busy": 1.05, "peak_allocated": 7 * 2**30,
        "peak_reserved": 7.1 * 2**30, "predicted": 6.8 * 2**30,
    }  # fmt: skip
    return made | more


def test_results_of_several_calls_are_joined(tmp_path: Path) -> None:
    first, second = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    longest_row = {"cell": "longest", "contender": "ours", "tokens": 22016}
    out = {"cell": "1024", "contender": "trl", "dropout": 0.0, "device": "card", "out_of_memory": "CUDA out of memory"}
    first.write_text("\n".join(json.dumps(item) for item in (line("ours", 12000), line("unsloth-8", 10000))) + "\n")
    second.write_text("\n".join(json.dumps(item) for item in (line("ours", 12400), out, longest_row)) + "\n")
    found = joined(read([first, second]))
    assert found[("1024", "ours", 0.0, "card")]["tokens_per_second"] == 12200
    assert longest([first, second]) == ["longest row: ours, 22,016 tokens"]
    text = table(found)
    assert "| 1024 | ours | 12,200 (spread 3%) | 1.22 | 80 | 1.05 | 7.00 | 7.10 | 6.80 (+3%) |" in text
    assert "| 1024 | trl | out of memory |" in text
    assert plot(found).count('height="17"') == 3  # a bar each, the last one of no width
    assert "out of memory" in plot(found)
    words = ("8 rows of 1,024 tokens a step, 7.5 GiB", "HALops, as", "TRL, as configured", "Unsloth, 8 rows at once")
    places = [plot(found).index(text) for text in words]
    assert places == sorted(places)
    assert "12,000 tok/s, peak 7.00 GiB, 6.80 predicted" in summary(line("ours", 12000))


def test_classic_losses_are_those_of_the_same_comparison(tmp_path: Path) -> None:
    same = {"cell": "1024", "steps": 50, "precision": "bf16"}
    lines = [{**same, "n": 1}, {**same, "n": 2}, {**same, "against": "fp32", "n": 3}, {**same, "steps": 1, "n": 4}]
    (tmp_path / "lines").write_text("\n".join(json.dumps(item) for item in lines))
    found = [classic(tmp_path / "lines", what) for what in (same, same | {"against": "fp32"}, same | {"cell": "short"})]
    assert [item and item["n"] for item in found] == [2, 3, None]


def test_the_longest_row_is_found_between_any_two(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tried: list[int] = []

    def fits(length: int, *rest: object) -> bool:
        assert len(tried) < 9
        tried.append(length)
        return length <= 9999

    monkeypatch.setattr(longest_row, "fits", fits)
    monkeypatch.setattr(sys, "argv", ["longest", "ours", "--base", "none", "--low", "9700", "--high", "10500"])
    assert longest_row.main() == 0
    assert '"tokens": 9728' in capsys.readouterr().out
    assert len(set(tried)) == len(tried)
