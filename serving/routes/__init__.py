"""The HTTP routes: predictions as bare ASGI, everything else (control, health, documentation) on Starlette."""
