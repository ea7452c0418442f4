"""Text over HTTP: an OpenAI-compatible server on the engine. `app.py` lists the endpoints."""
