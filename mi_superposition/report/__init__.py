"""The whole study as one static site, composed of the chapters of all subjects."""
