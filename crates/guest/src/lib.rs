//! What runs inside a sandbox: a static init and the glue of the ASGI server.
