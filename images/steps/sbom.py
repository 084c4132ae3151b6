"""One CycloneDX document for an image: Python packages as cyclonedx-py lists them, Debian packages, llama.cpp.

usage: sbom.py OUT [--venv FOLDER] [--dpkg STATUS_FILE] [--llama BUILD_JSON]
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

DPKG_STATUS = Path("/var/lib/dpkg/status")


def python_packages(venv):
    """cyclonedx-py's document; an empty one of the same version without a virtual environment."""
    if venv is None:
        return {"$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json", "bomFormat": "CycloneDX",
                "specVersion": "1.6", "version": 1, "components": []}  # fmt: skip
    tool = Path(sys.executable).with_name("cyclonedx-py")
    argv = [tool, "environment", "--output-reproducible", "--output-format", "JSON", venv / "bin" / "python"]
    return json.loads(subprocess.run(argv, check=True, stdout=subprocess.PIPE).stdout)


def debian_packages(status):
    """A component for each installed package of a dpkg status file."""
    for paragraph in status.read_text().split("\n\n"):
        lines = [line.partition(": ") for line in paragraph.splitlines() if line[:1] != " "]
        fields = {name: value for name, _, value in lines}
        if fields.get("Status", "").endswith(" installed"):
            name, version = fields["Package"], fields["Version"]
            purl = f"pkg:deb/debian/{name}@{version.replace('+', '%2B')}?arch={fields['Architecture']}"
            yield {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def llama_cpp(receipt):
    """The component of a built llama.cpp, from the receipt that its build wrote."""
    built = json.loads(receipt.read_text())
    purl = f"pkg:github/ggml-org/llama.cpp@{built['commit']}"
    properties = [{"name": "halops:cmake", "value": flag} for flag in built["flags"]]
    properties.append({"name": "halops:sdist-sha256", "value": built["sdist_sha256"]})
    properties += [{"name": "halops:patch", "value": name} for name in built["patches"]]
    return {"type": "application", "bom-ref": purl, "name": "llama.cpp", "version": built["commit"], "purl": purl,
            "licenses": [{"license": {"id": "MIT"}}], "properties": properties}  # fmt: skip


def validate(text):
    """Raises SystemExit where the document doesn't follow CycloneDX's schema."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if problem:
        sys.exit(f"not CycloneDX 1.6: {problem}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--venv", type=Path)
    parser.add_argument("--dpkg", type=Path, default=DPKG_STATUS)
    parser.add_argument("--llama", type=Path)
    options = parser.parse_args()
    document = python_packages(options.venv)
    components = document.setdefault("components", [])
    components += debian_packages(options.dpkg)
    components += [llama_cpp(options.llama)] if options.llama else []
    text = json.dumps(document, indent=1)
    validate(text)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text)


if __name__ == "__main__":
    main()
