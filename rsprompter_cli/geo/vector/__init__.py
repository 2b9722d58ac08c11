"""Vector files: one module reads them, one writes them."""
