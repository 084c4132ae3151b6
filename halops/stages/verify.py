"""verify: prove the chain's result under the very flags that it will be served with.

Gates, each of which fails the run: the files' metadata, the merge (by a second reader), the token ids that
llama-server makes and really uses, and where answers stop. Then figures: the probes, asked of base and tuned.

Output: `verify.json` (gates and figures), `parity.json` (mismatches), `answers.jsonl` (held-out questions with both
answers), `probes.jsonl` (each probe with both answers and verdicts).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from halops.chat import Answer
from halops.errors import ConfigError, HalopsError, Interrupted
from halops.llamacpp.client import LlamaClient
from halops.llamacpp.convert import Converter, base_gguf
from halops.llamacpp.server import LlamaServer
from halops.llamacpp.toolchain import Toolchain, find
from halops.sections import Serving
from halops.stages.context import Metrics, StageContext
from halops.verify.chats import heldout_chats, sample_chats, training_chats
from halops.verify.files import check_file, control_ids
from halops.verify.parity import Mismatch, check_chat
from halops.verify.probing import Request, ask_all
from halops.verify.report import Answers, Gate, answer_rows, figures, probe_rows, require, write_json, write_rows
from halops.verify.stops import Asked, ask, choose_questions

if TYPE_CHECKING:
    from halops.probes import Probe

BASE_SLOTS = 4


def run(context: StageContext) -> Metrics:
    """Check, ask, write the reports.

    Inputs: `base/`, `data/`, `train/adapter/`, `merge/`, `convert/`.

    Raises:
        VerificationError: a gate failed; says which, on what, and the first difference.
        ConfigError: `serving.file` isn't among `convert.types`.
        HostError: llama.cpp isn't built, or can't run here.
    """
    return _Verification(context).run()


class _Verification:
    def __init__(self, context: StageContext) -> None:
        self.context = context
        self.profile = context.spec.profile
        self.tools: Toolchain = find()
        self.served = served_file(context)
        longest = self.profile.training.max_seq_length
        data = context.inputs / "data"
        self.chats = sample_chats(data, self.profile.verify.parity_chats, longest)
        settings = self.profile.verify
        candidates = [*heldout_chats(data, longest), *training_chats(data)]  # the latter where too few are held out
        self.questions = choose_questions(candidates, settings.answers, settings.answer_tokens)
        self.probes = _probes(data)
        self.parity = Gate("parity")
        self.mismatches: list[Mismatch] = []

    def run(self) -> Metrics:
        gates = [self._files(), self._merge()]
        require(gates)
        with self._server(self.served, self.profile.serving, "tuned") as client:
            self._compare_ids(client)
            asked = list(self._ask_questions(client))
            gates += [self.parity, self._stops(asked)]
            require(gates)
            tuned = Answers([item.answer for item in asked], self._ask_probes(client))
        base = self._ask_base() if self.profile.verify.compare_base else None
        return self._report(gates, tuned, base)

    def _files(self) -> Gate:
        gate = Gate("files")
        for path in sorted((self.context.inputs / "convert").glob("*.gguf")):
            if not path.name.endswith("-adapter-f16.gguf"):
                self.context.progress(f"checking {path.name}")
                gate.checked += 1
                gate.failures += check_file(path, self.context.inputs / "merge")
        return gate

    def _merge(self) -> Gate:
        from halops.merge.proof import prove_merge

        self.context.progress("checking the merge with a second reader")
        inputs = self.context.inputs
        proof = prove_merge(inputs / "base", inputs / "train" / "adapter", inputs / "merge")
        unchanged = [f"{name} is the base's, though the adapter changes it" for name in proof.unchanged]
        return Gate("merge", proof.checked, [*proof.failures, *unchanged])

    @contextmanager
    def _server(self, model: Path, serving: Serving, name: str) -> Iterator[LlamaClient]:
        """A server as it will run, but for its port, its host, and a folder to read a slot's ids from."""
        slots = self._slots
        slots.mkdir(exist_ok=True)
        server = LlamaServer(
            self.tools, model, serving, log=self.context.scratch / f"server-{name}.log", port=0, host="127.0.0.1",
            extra=("--slot-save-path", f"{slots}/"), stop=self.context.stop,
        )  # fmt: skip
        self.context.progress(f"loading {model.name}")
        with server, LlamaClient(server.url) as client:
            try:
                yield client
            except HalopsError as error:
                if self.context.stop.is_set():
                    raise _stopped() from error
                server.check()  # a server that died is the cause, not the broken connection
                raise

    @property
    def _slots(self) -> Path:
        return self.context.scratch / "slots"

    def _compare_ids(self, client: LlamaClient) -> None:
        for chat in self._each(self.chats, "comparing token ids", "chats"):
            self.parity.checked += 1
            self._note(check_chat(client, chat))

    def _ask_questions(self, client: LlamaClient) -> Iterator[Asked]:
        control = control_ids(self.served)
        for question in self._each(self.questions, "asking held-out questions", "answers"):
            asked = ask(client, question, control, self._slots)
            self._note(asked.mismatch)
            yield asked

    def _note(self, found: Mismatch | None) -> None:
        if found:
            self.mismatches.append(found)
            self.parity.failures.append(str(found))

    def _stops(self, asked: list[Asked]) -> Gate:
        failures = [item.problem for item in asked if item.problem]
        return Gate("stops", len(asked), failures, self.profile.verify.max_stop_failures)

    def _ask_probes(self, client: LlamaClient) -> list[Answer]:
        """The tuned model's answers, under the very flags that it is served with."""
        answers = ask_all(client, self._probe_requests(), self.profile.serving.parallel)
        return list(self._each(answers, "asking the probes", "probes", len(self.probes)))

    def _probe_requests(self) -> list[Request]:
        limit = self.profile.verify.answer_tokens
        return [([message.model_dump() for message in probe.messages], limit) for probe in self.probes]

    def _ask_base(self) -> Answers:
        """The base model's answers. It isn't served, and talks at length: more slots only save time."""
        log = self.context.scratch / "convert.log"
        converter = Converter(self.tools, log, self.context.progress, self.context.stop)
        model = base_gguf(self.context.inputs / "base", self.context.spec.base.digest, converter)
        slots = max(self.profile.serving.parallel, BASE_SLOTS)
        requests = [(question.turn.prompt, question.limit) for question in self.questions] + self._probe_requests()
        with self._server(model, self.profile.serving.model_copy(update={"parallel": slots}), "base") as client:
            asked = ask_all(client, requests, slots)
            answers = list(self._each(asked, "asking the base model", "questions", len(requests)))
        return Answers(answers[: len(self.questions)], answers[len(self.questions) :])

    def _each(self, items: Any, what: str, unit: str, total: int | None = None) -> Iterator[Any]:
        """The items, with progress, until the stage is asked to stop."""
        total = total if total is not None else len(items)
        for done, item in enumerate(items):
            if self.context.stop.is_set():
                raise _stopped()
            self.context.progress(what, done=done, total=total, unit=unit)
            yield item
        self.context.progress(what, done=total, total=total, unit=unit)

    def _report(self, gates: list[Gate], tuned: Answers, base: Answers | None) -> Metrics:
        output = self.context.output
        rows = list(probe_rows(self.probes, tuned, base))
        metrics = figures(gates, self.mismatches, rows, base is not None, tuned)
        write_json(output / "verify.json", {
            "served": self.served.name, "serving": self.profile.serving.model_dump(mode="json"),
            "gates": {gate.name: gate.to_json() for gate in gates}, "metrics": metrics,
        })  # fmt: skip
        write_json(output / "parity.json", {
            "chats": [chat.id for chat in self.chats], "mismatches": [item.to_json() for item in self.mismatches],
        })  # fmt: skip
        write_rows(output / "answers.jsonl", answer_rows(self.questions, tuned, base))
        if self.probes:
            write_rows(output / "probes.jsonl", rows)
        return metrics


def served_file(context: StageContext) -> Path:
    """The GGUF file that `serving.file` names. Raises ConfigError if it wasn't made."""
    profile = context.spec.profile
    path = context.inputs / "convert" / f"{profile.convert.name}-{profile.serving.file.lower()}.gguf"
    if not path.is_file():
        raise ConfigError(
            "the file to serve wasn't made",
            [f"serving.file: {profile.serving.file!r} isn't among convert.types: {', '.join(profile.convert.types)}"],
        )
    return path


def _stopped() -> Interrupted:
    return Interrupted("stopped while verifying", remedy="the same command goes on from here")


def _probes(data: Path) -> tuple[Probe, ...]:
    from halops.probes import load_probes

    path = data / "probes.jsonl"
    return load_probes(path) if path.is_file() else ()
