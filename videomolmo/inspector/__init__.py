"""The track inspector: look at everything the system believes about a video, compare, correct, take away.

inspection: what a result says, frame by frame · differences: two results · corrections: points by hand · painting:
pictures of frames · figures: plots · exports: files for others. None of them needs a notebook;
widget, desk, canvas and the panels do: a desk holds what is shown, canvas and plots show it, each panel changes a part.
"""
