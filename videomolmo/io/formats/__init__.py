"""Formats that other tools read and write: masks, boxes and tracks of a clip, taken away and brought in."""
