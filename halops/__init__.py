"""HALops: conversations in, a proven chat endpoint out."""

__version__ = "0.1.0"
