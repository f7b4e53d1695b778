"""How many facts a d x d associative memory holds: certified capacities against the theory at the same size.

Giorlandino, Goldt, Maillard (2026), "Factual recall in linear associative memories: sharp asymptotics and mechanistic
insights", arXiv 2605.10795. Only its abstract was available: theory, models and embeddings are reconstructed in the
specification, and every claim says which of the two it comes from. The constant 1/2 of the abstract is never measured,
since it is approached like a logarithm; measurements are held against the theory of their own size.
"""
