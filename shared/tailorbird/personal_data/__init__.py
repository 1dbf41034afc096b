"""Personal data in texts: found by patterns, checksums and context, and replaced.

`kinds`, `modes` and `findings` need nothing; `loading` imports the rest, which needs the extra
`privacy` (Presidio). Nothing here opens a connection, and nothing says, logs or raises what it
found.
"""
