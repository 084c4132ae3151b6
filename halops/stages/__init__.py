"""The stages of a run, one module each; every module has `run(context) -> metrics`."""
