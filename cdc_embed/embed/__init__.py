"""The embedders: texts to vectors, every model behind one Protocol."""
