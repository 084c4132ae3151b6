"""Training speed and memory: ours and the peers, cell by cell. See `python -m bench.train --help`."""
