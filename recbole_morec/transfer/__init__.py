"""Starting a model from what another run, or published code, has learned."""
