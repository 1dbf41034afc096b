"""The web console: a process of its own, without state, that shows both services to people.

It is a caller like any other: every call carries the token of whoever looks at the page.
"""
