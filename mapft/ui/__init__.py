"""`mapft ui`: the palette as a local web page."""
