"""How training scales from one GPU to several, and what more of them would give."""
