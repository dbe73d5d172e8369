"""Who may call, and how often: API keys, bearer tokens, client certificates, signed requests, and rate limits.

`open_access` makes the guard of a server; `Access.admit` decides on one request, by plain values: whoever has read the
head of a request can ask, before the body is read. Control routes have a token of their own.
"""

from serving.access.guard import Access, Known, open_access, scope_of
from serving.access.request import AccessRefusedError, Admission, ClientCertificate, RequestHead

__all__ = [
    "Access",
    "AccessRefusedError",
    "Admission",
    "ClientCertificate",
    "Known",
    "RequestHead",
    "open_access",
    "scope_of",
]
