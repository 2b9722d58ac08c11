"""The models, one module each, as in their papers."""
