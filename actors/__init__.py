"""All that runs inside a Ray actor and holds a model: expander, generator, networks."""
