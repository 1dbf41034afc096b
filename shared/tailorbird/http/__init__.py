"""The HTTP edge: plain JSON for those who speak no gRPC, with the same callers and errors.

Needs the extra `http`. A service's own room `http/` gives it routes; they call what its servicers
call. `tailorbird.edge` opens it beside gRPC where TAILORBIRD_HTTP_PORT asks for it.
"""
