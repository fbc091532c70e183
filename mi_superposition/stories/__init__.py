"""The bundled story model: training on TinyStories, its loss in bits per character, and stories sampled from it."""
