"""The providers that come with tether, one module each; they are found by entry point, and import their clients lazily."""
