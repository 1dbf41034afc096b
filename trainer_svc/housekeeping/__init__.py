"""Removes what nobody needs any more, and all of a tenant that is to be forgotten."""
