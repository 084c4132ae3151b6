"""Digests into the site's settings: `images:` is edited where it stands, everything else in the file stays as it is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import yaml

from halops.errors import ConfigError
from halops.names import SITE_FILE
from halops.site import Site, load_site, replace_file, write_site

_EXAMPLE = re.compile(r"^# *images:.*\n?", re.MULTILINE)  # as `halops init` writes it
Edit = tuple[int, int, str]  # from, to, replacement: offsets into the text


def lock_images(folder: Path, images: Mapping[str, str], registry: str | None = None) -> Path:
    """Set `images` in the folder's site file, atomically, and return its path.

    Args:
        images: name -> REFERENCE@sha256:DIGEST. Images of other names keep their digest.
        registry: for a site file that has to be made first.

    Raises ConfigError if the file can't be edited without touching something else.
    """
    path = folder / SITE_FILE
    if not path.exists():
        write_site(path, Site(registry=registry, images=dict(images)))
        return path
    load_site(path)  # says what is wrong with it
    text = path.read_text(encoding="utf-8")
    new = with_images(text, images)
    if new is None:
        block = yaml.safe_dump({"images": dict(images)}, sort_keys=False, width=1000)
        raise ConfigError("can't write the digests into this file's `images:`", where=str(path),
                          remedy=f"write them by hand:\n{block}")  # fmt: skip
    replace_file(path, new)
    return path


def with_images(text: str, images: Mapping[str, str]) -> str | None:
    """The site file's text with those images set; None if that would change any other setting."""
    before = yaml.safe_load(text) or {}
    new = _edited(text, images)
    wanted = before | {"images": (before.get("images") or {}) | dict(images)}
    try:
        return new if yaml.safe_load(new) == wanted else None
    except yaml.YAMLError:
        return None


def _edited(text: str, images: Mapping[str, str]) -> str:
    document = yaml.compose(text, Loader=yaml.SafeLoader)
    entries = document.value if isinstance(document, yaml.MappingNode) else []
    for key, value in entries:
        if key.value != "images":
            continue
        if isinstance(value, yaml.MappingNode):
            return _apply(text, _edits(value, images, text))
        return _apply(text, [(key.end_mark.index, value.end_mark.index, f":\n{_block(images, '  ')}")])
    block = f"images:\n{_block(images, '  ')}\n"
    if example := _EXAMPLE.search(text):
        return text[: example.start()] + block + text[example.end() :]
    return text + ("" if not text or text.endswith("\n") else "\n") + block


def _edits(mapping: yaml.MappingNode, images: Mapping[str, str], text: str) -> list[Edit]:
    """Replace the values that are there, and add what isn't, in the mapping's own style."""
    there = {key.value: value for key, value in mapping.value}
    edits = [
        (node.start_mark.index, node.end_mark.index, images[name]) for name, node in there.items() if name in images
    ]
    missing = {name: value for name, value in images.items() if name not in there}
    if not missing:
        return edits
    if mapping.flow_style:
        end = mapping.end_mark.index - 1
        added = ", ".join(f"{name}: {value}" for name, value in missing.items())
        comma = ", " if there and not text[:end].rstrip().endswith(",") else ""
        return [*edits, (end, end, f"{comma}{added}")]
    last = max(node.end_mark.index for node in there.values())
    line_end = text.find("\n", last)
    line_end = len(text) if line_end < 0 else line_end
    indent = " " * mapping.value[0][0].start_mark.column
    return [*edits, (line_end, line_end, f"\n{_block(missing, indent)}")]


def _block(images: Mapping[str, str], indent: str) -> str:
    return "\n".join(f"{indent}{name}: {value}" for name, value in images.items())


def _apply(text: str, edits: list[Edit]) -> str:
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + new + text[end:]
    return text
