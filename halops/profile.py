"""Profile: what a person writes. Loaded, overridden and checked here; all problems are reported at once."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError, model_validator

from halops import classic, sections
from halops.artifact import Frozen
from halops.errors import ConfigError, NotFoundError


class Profile(Frozen):
    """One way to make a model: every section has defaults, so an empty file is a valid profile."""

    name: str = "custom"
    model: sections.Model = sections.Model()
    data: sections.Data = sections.Data()
    quantization: sections.Quantization = sections.Quantization()
    lora: sections.Lora = sections.Lora()
    training: sections.Training = sections.Training()
    merge: sections.Merge = sections.Merge()
    convert: sections.Convert = sections.Convert()
    verify: sections.Verify = sections.Verify()
    serving: sections.Serving = sections.Serving()
    cluster: sections.Cluster = sections.Cluster()
    storage: sections.Storage = sections.Storage()

    @model_validator(mode="after")
    def _served_file_is_made(self) -> Profile:
        if self.serving.file not in self.convert.types:
            made = ", ".join(self.convert.types)
            raise ValueError(f"serving.file: {self.serving.file!r} isn't among convert.types ({made})")
        return self

    @model_validator(mode="after")
    def _gpus_share_a_step(self) -> Profile:
        training, cluster = self.training, self.cluster
        rows = training.per_device_train_batch_size * training.gradient_accumulation_steps
        processes = max(1, cluster.gpu.count) * cluster.nodes
        if rows % processes:
            raise ValueError(
                f"cluster.gpu.count: {processes} GPUs can't share a step of {rows} rows evenly "
                "(training.per_device_train_batch_size x training.gradient_accumulation_steps); "
                f"take a multiple of {processes}"
            )
        return self


def shipped_profiles() -> list[str]:
    """Names of the profiles that come with HALops."""
    folder = resources.files("halops") / "profiles"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_profile(name_or_file: str, overrides: Sequence[str] = ()) -> Profile:
    """A shipped profile by name, or any YAML file by path, with `path=value` overrides applied.

    Raises:
        NotFoundError: no such profile or file.
        ConfigError: with every problem found, each with its path.
    """
    raw, where = _read(name_or_file)
    problems: list[str] = []
    raw = classic.normalise(raw, problems)
    for override in overrides:
        _apply(raw, override, problems)
    return _validate(raw, problems, where)


def _read(name_or_file: str) -> tuple[dict[str, Any], str]:
    path = Path(name_or_file)
    if name_or_file in shipped_profiles() and not path.is_file():
        resource = resources.files("halops") / "profiles" / f"{name_or_file}.yaml"
        return parse_yaml(resource.read_text(), f"profile {name_or_file}"), f"profile {name_or_file}"
    if not path.is_file():
        raise NotFoundError(
            f"no profile {name_or_file!r}",
            remedy=f"give a YAML file, or one of: {', '.join(shipped_profiles())}",
        )
    return read_yaml(path), name_or_file


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping. Raises ConfigError with the line of a syntax error."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError("not a UTF-8 text file", where=f"{path}: byte {error.start}") from error
    except OSError as error:
        raise NotFoundError(f"can't read the file: {error.strerror}", where=str(path)) from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, where: str) -> dict[str, Any]:
    """A YAML mapping. Raises ConfigError."""
    try:
        raw = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f"{where}: line {mark.line + 1}, column {mark.column + 1}" if mark else where
        raise ConfigError(f"not valid YAML: {getattr(error, 'problem', error)}", where=line) from error
    except ValueError as error:  # e.g. a date with month 13
        raise ConfigError(f"not valid YAML: {error}", where=where) from error
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise ConfigError("expected a mapping of sections", where=where)
    return raw


def _apply(raw: dict[str, Any], override: str, problems: list[str]) -> None:
    """Set one `section.key=value`; the value is read as YAML."""
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        problems.append(f"--set {override}: expected path=value, such as training.learning_rate=1e-4")
        return
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    branch: dict[str, Any] = {keys[-1]: value}
    for key in reversed(keys[:-1]):
        branch = {key: branch}
    _merge(raw, classic.normalise(branch, problems))


def _merge(into: dict[str, Any], other: Mapping[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value


def _validate(raw: dict[str, Any], problems: list[str], where: str) -> Profile:
    try:
        profile = Profile.model_validate(raw)
    except ValidationError as error:
        problems += describe(error, Profile)
        profile = Profile()
    if problems:
        raise ConfigError(
            f"{len(problems)} problem{'s' if len(problems) > 1 else ''} in the configuration",
            problems,
            where=where,
            remedy="`halops plan --profile NAME --json` prints a complete valid profile",
        )
    return profile


def describe(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Each problem of a pydantic error as one line that begins with the field's path."""
    lines = []
    for item in error.errors():
        path = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            lines.append(f"{path}: unknown key{_suggest(item['loc'], model)}")
        elif item["type"] == "value_error":
            lines.append(f"{path}: {item['ctx']['error']}".removeprefix(": "))
        else:
            lines.append(f"{path}: {item['msg'][0].lower()}{item['msg'][1:]}, not {item['input']!r}")
    return lines


def _suggest(location: Sequence[int | str], model: type[BaseModel]) -> str:
    for part in location[:-1]:
        field = model.model_fields.get(str(part))
        section = field.annotation if field else None
        if not (isinstance(section, type) and issubclass(section, BaseModel)):
            return ""
        model = section
    close = difflib.get_close_matches(str(location[-1]), list(model.model_fields), n=1)
    return f"; did you mean {close[0]}?" if close else ""
