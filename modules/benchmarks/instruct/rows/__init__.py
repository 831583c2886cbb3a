"""Rows of instruction data: their forms, their files, and how a chat template puts them into tokens."""
