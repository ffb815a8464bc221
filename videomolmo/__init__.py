"""Point at what a sentence names in a video."""
