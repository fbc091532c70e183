"""Results to Plotly figures. Nothing here computes, shows or saves."""
