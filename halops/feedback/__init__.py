"""Chats that people rated or corrected, kept by choice, and the rows that come of them."""
