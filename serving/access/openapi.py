"""What the OpenAPI document says about access: the kinds of credentials, what each route needs, and the refusals."""

from typing import Any

from contracts.problem import CONTENT_TYPE as PROBLEM_TYPE
from serving.access.guard import CONTROL_PREFIX, Access, scope_of

_METHODS = frozenset({"get", "put", "post", "delete", "patch", "head", "options"})
_CONTROL = "controlToken"
_PROBLEM = {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
_WAIT = {"description": "Seconds until it is worth another try", "schema": {"type": "integer", "minimum": 1}}
_REFUSALS: dict[str, dict[str, Any]] = {
    "401": {
        "description": "No active credential",
        "headers": {"WWW-Authenticate": {"schema": {"type": "string"}}},
        "content": _PROBLEM,
    },
    "403": {"description": "The credential has not the scope of this route", "content": _PROBLEM},
    "429": {
        "description": "The client has used up its rate limit",
        "headers": {
            "Retry-After": _WAIT,
            "RateLimit-Limit": {"schema": {"type": "integer"}},
            "RateLimit-Remaining": {"schema": {"type": "integer"}},
            "RateLimit-Reset": {"schema": {"type": "integer"}},
            "RateLimit-Policy": {"schema": {"type": "string"}},
        },
        "content": _PROBLEM,
    },
}


def secure(document: dict[str, Any], access: Access | None, *, has_control_token: bool) -> dict[str, Any]:
    """`document` with its `securitySchemes`, and for each operation its `security` and its refusals.

    Operations with the tag `predictions` need the scope `predict`, all others what `scope_of` says of their paths. On a
    server without credentials only the control routes have a scheme, where they have a token.
    """
    schemes = {} if access is None else security_schemes(access)
    if has_control_token:
        schemes[_CONTROL] = {"type": "http", "scheme": "bearer", "description": "The token of whoever runs a rollout"}
    paths = {
        path: {
            method: {**operation, **_access_of(path, operation, schemes)} if method in _METHODS else operation
            for method, operation in methods.items()
        }
        for path, methods in document.get("paths", {}).items()
    }
    components = document.get("components", {})
    if schemes:
        components = {**components, "securitySchemes": schemes}
    return {**document, "paths": paths, "components": components}


def _access_of(path: str, operation: dict[str, Any], schemes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What the document says of one operation. One scheme is enough; the list of each names the scope (OpenAPI 3.1)."""
    if path.startswith(CONTROL_PREFIX):
        return {"security": [{_CONTROL: []}] if _CONTROL in schemes else []}
    needed = "predict" if "predictions" in operation.get("tags", ()) else scope_of(path)
    kinds = [name for name in schemes if name != _CONTROL]
    if not kinds or needed is None:
        return {"security": []}
    return {
        "security": [{name: [needed]} for name in kinds],
        "responses": {**operation.get("responses", {}), **_REFUSALS},
        "x-required-scope": needed,
    }


def security_schemes(access: Access) -> dict[str, dict[str, Any]]:
    """The kinds of credentials that this server takes, as `components.securitySchemes`."""
    credentials = access.credentials
    schemes: dict[str, dict[str, Any]] = {}
    if credentials.has_keys:
        schemes["apiKey"] = {"type": "apiKey", "in": "header", "name": "x-api-key"}
        schemes["apiKeyAsBearer"] = {"type": "http", "scheme": "bearer", "bearerFormat": "pk_…"}
    if credentials.rules.issuers:
        prefixes = " or ".join(repr(each) for each in sorted({each.scope_prefix for each in credentials.rules.issuers}))
        schemes["accessToken"] = {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "JWT",
            "description": f"An OAuth 2 access token (RFC 9068) whose scopes begin with {prefixes}",
        }
    if credentials.rules.certificates:
        schemes["clientCertificate"] = {"type": "mutualTLS"}
    if credentials.rules.signing_keys:
        schemes["signature"] = {
            "type": "http",
            "scheme": "signature",
            "description": (
                "An HTTP message signature (RFC 9421) over @method, @authority, @path, @query (or @target-uri) and, "
                "with a body, content-digest; with the parameters created, nonce and keyid"
            ),
        }
    return schemes
