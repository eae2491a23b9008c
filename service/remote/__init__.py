"""Workers in any language: they claim jobs over HTTP, and report what became of them."""
