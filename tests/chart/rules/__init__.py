"""What must hold for whatever the chart renders, in the manner of the field's linters.

A rule is a function from what was rendered to its findings, each in one line.
"""
