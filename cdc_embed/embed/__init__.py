"""Texts to vectors: one room for every model, behind one Protocol."""
