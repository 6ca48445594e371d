"""The picture of a workflow on the page of a run: which runs belong to it, how they hang together, how that is drawn.

One direction: `rows` reads the runs, `graph` links them, `folding` decides what is shown, `tiles` finds the words, and
`picture` the places. All but `rows` are pure.
"""
