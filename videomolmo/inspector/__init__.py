"""The track inspector: predictions of a video, looked at, compared, corrected, exported.

inspection: a result, frame by frame · compare: two results · corrections: points by hand · render: pictures of frames ·
plots · exports. None of them needs a notebook; widget, session, canvas and the panels do: the session holds what is
shown, canvas and plots show it, each panel changes a part. app is a page for one's own videos around it, transfer
brings files from and to a browser.
"""
