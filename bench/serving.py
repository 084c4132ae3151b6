"""llama-server as the chart starts it, beside llama-bench and llama-batched-bench on the same file.

    python -m bench.serving MODEL.gguf [--values helm/halops-inference/values-8gb.yaml] [--streams 1 4 8 16]

Prints how long it takes from the process' start to the first token, then for each number of streams the time to the
first token, and prompt and generated tokens a second, greedily. For a machine without helm, `--print-arguments` writes
the command line as JSON, and `--arguments FILE` reads it.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

ROOT = Path(__file__).parents[1]
CHART = ROOT / "helm" / "halops-inference"
PROMPT, GENERATED = 512, 128  # tokens, llama-bench's usual lengths
STARTS = 5
DIGEST = "0" * 64
PORT = "18081"
KEY = "sk-bench"


@dataclass(frozen=True)
class Told:
    """One answer: seconds to its first token, and llama-server's own timings."""

    first: float
    timings: dict[str, float]


def arguments_of(values: list[Path], gpu: bool) -> list[str]:
    """The server's arguments by the chart, with MODEL, KEYS and LOG as names of files."""
    helm = subprocess.run([ROOT / "tools" / "helm.sh"], check=True, capture_output=True, text=True).stdout.strip()
    image = f"bench@sha256:{DIGEST}"
    sets = [
        f"image={image}",
        f"fetch.image={image}",
        "auth.secret=keys",
        f"model.sha256={DIGEST}",
        "model.url=s3://b/k",
    ]
    sets += [] if gpu else ["gpu.count=0"]
    words = [helm, "template", "bench", CHART, *(word for path in values for word in ("--values", path))]
    done = subprocess.run([*words, *(word for one in sets for word in ("--set", one))], check=True, capture_output=True)
    objects = [item for item in yaml.safe_load_all(done.stdout) if item and item["kind"] == "Deployment"]
    found: list[str] = objects[0]["spec"]["template"]["spec"]["containers"][0]["args"]
    names = {f"/models/{DIGEST}.gguf": "MODEL", "/etc/halops/keys/keys": "KEYS", "/run/halops/server.log": "LOG"}
    here = {"8080": PORT, "0.0.0.0": "127.0.0.1"} | names
    return [here.get(word, word) for word in found]


class Server:
    """llama-server, for as long as the block lasts."""

    def __init__(self, program: Path, arguments: list[str], folder: Path) -> None:
        self._words = [str(program), *arguments]
        self._log = (folder / "out").open("ab")

    def __enter__(self) -> None:
        self.began = time.perf_counter()
        self._process = subprocess.Popen(self._words, stdout=self._log, stderr=self._log)
        with httpx.Client(base_url=f"http://127.0.0.1:{PORT}", trust_env=False) as client:
            while self._process.poll() is None:
                try:
                    if client.get("/health").status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                time.sleep(0.005)
        sys.exit(f"llama-server ended with {self._process.returncode}: {self._log.name}")

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(60)


def complete(prompt: Any, tokens: int) -> Told:
    """One streamed completion, greedy; `prompt` is text or token ids."""
    body = {"prompt": prompt, "n_predict": tokens, "temperature": 0, "ignore_eos": True, "stream": True}
    body["cache_prompt"] = False
    # httpx would take a millisecond for each piece: sixteen streams would measure this program.
    connection = http.client.HTTPConnection("127.0.0.1", int(PORT), timeout=600)
    began, first, last = time.perf_counter(), 0.0, b"{}"
    connection.request("POST", "/completion", json.dumps(body), {"Authorization": f"Bearer {KEY}"})
    for line in connection.getresponse():
        if line.startswith(b"data: "):
            first = first or time.perf_counter() - began
            last = line.removeprefix(b"data: ")
    connection.close()
    return Told(first, json.loads(last)["timings"])


def streams(count: int) -> dict[str, float]:
    """`count` completions at once: medians over them, and all tokens that were generated a second."""
    draw = random.Random(count)
    prompts = [[draw.randrange(1000, 20000) for _ in range(PROMPT)] for _ in range(count)]
    told: list[Told] = []
    threads = [threading.Thread(target=lambda ids=ids: told.append(complete(ids, GENERATED))) for ids in prompts]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wall = time.perf_counter() - began
    return {
        "first": statistics.median(item.first for item in told),
        "prompt": statistics.median(item.timings["prompt_per_second"] for item in told),
        "each": statistics.median(item.timings["predicted_per_second"] for item in told),
        "all": count * GENERATED / wall,
    }


def starts(program: Path, arguments: list[str], folder: Path) -> list[float]:
    """Seconds from the process' start to its first token; the file is in the page cache after the first one."""
    found = []
    for _ in range(STARTS + 1):
        server = Server(program, arguments, folder)
        with server:
            complete("ping", 1)
            found.append(time.perf_counter() - server.began)
    return found[1:]


def peers(bin_folder: Path, model: Path, arguments: list[str], counts: list[int]) -> None:
    """llama-bench, and llama-batched-bench where it was built, with the server's own settings."""

    def given(name: str) -> str:
        return arguments[arguments.index(name) + 1]

    names = {
        "-t": "--threads", "-b": "--batch-size", "-ub": "--ubatch-size", "-ctk": "--cache-type-k",
        "-ctv": "--cache-type-v", "-ngl": "--n-gpu-layers",
    }  # fmt: skip
    same = ["-m", str(model), *(word for short, name in names.items() for word in (short, given(name)))]
    flash = given("--flash-attn")
    depth = ["-p", str(PROMPT), "-n", str(GENERATED), "-d", f"0,{PROMPT}", "-fa", str(int(flash == "on")), "-o", "json"]
    done = subprocess.run([bin_folder / "llama-bench", *same, *depth], check=True, capture_output=True, text=True)
    for row in json.loads(done.stdout):
        what = f"prompt {row['n_prompt']}" if row["n_prompt"] else f"generation {row['n_gen']}"
        print(f"| llama-bench, {what} at depth {row['n_depth']} | | | {row['avg_ts']:.1f} | |")
    batched = bin_folder / "llama-batched-bench"
    if not batched.exists():
        print("| llama-batched-bench: not built | | | | |")
        return
    size = str(max(counts) * (PROMPT + GENERATED))
    words = [
        *same,
        "-fa",
        flash,
        "-c",
        size,
        "-npp",
        str(PROMPT),
        "-ntg",
        str(GENERATED),
        "-npl",
        ",".join(map(str, counts)),
    ]
    done = subprocess.run([batched, *words, "--output-format", "jsonl"], check=True, capture_output=True, text=True)
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            row = json.loads(line)
            speed, prompt = row["pl"] * row["tg"] / (row["t_pp"] + row["t_tg"]), row["speed_pp"]
            each = row["speed_tg"] / row["pl"]
            print(f"| llama-batched-bench, {row['pl']} | | {prompt:.0f} | {each:.1f} | {speed:.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.serving", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--values", type=Path, action="append", default=[], help="the chart's values")
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4, 8, 16])
    parser.add_argument("--bin", type=Path, help="folder of llama-server and the others, instead of the cache's build")
    parser.add_argument("--arguments", type=Path, help="what --print-arguments printed")
    parser.add_argument("--print-arguments", action="store_true")
    parser.add_argument("--extra", nargs="+", default=[], help="words more for the server, without their dashes")
    parser.add_argument("--alone", action="store_true", help="without llama-bench and llama-batched-bench")
    options = parser.parse_args()
    if options.arguments:
        arguments = json.loads(options.arguments.read_text())
    else:
        arguments = arguments_of(options.values, options.gpu)
    if options.print_arguments:
        print(json.dumps(arguments))
        return
    if not options.bin:
        from halops.llamacpp.toolchain import find

        options.bin = find().server.parent
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "keys").write_text(f"{KEY}\n")
        files = {"MODEL": str(options.model), "KEYS": str(folder / "keys"), "LOG": str(folder / "log")}
        own = [files.get(word, word) for word in arguments] + [f"--{word}" for word in options.extra]
        program = options.bin / "llama-server"
        times = starts(program, own, folder)
        median, slowest = statistics.median(times), max(times)
        print(f"start to first token: {median:.2f} s (slowest of {STARTS}: {slowest:.2f} s; the file is cached)\n")
        print("| | first token, s | prompt, tokens/s | each, tokens/s | all, tokens/s |\n|---|---|---|---|---|")
        with Server(program, own, folder):
            streams(1)
            for count in options.streams:
                row = streams(count)
                cells = f"{row['first']:.2f} | {row['prompt']:.0f} | {row['each']:.1f} | {row['all']:.1f}"
                print(f"| llama-server, {count} | {cells} |", flush=True)
    if not options.alone:
        peers(options.bin, options.model, arguments, options.streams)


if __name__ == "__main__":
    main()
