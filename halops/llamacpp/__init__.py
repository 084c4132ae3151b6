"""llama.cpp, pinned: its build, its converter and quantizer, its server."""
