"""An OpenAI-compatible server on this machine: what the user may call appears there as models (docs/OPENAI.md)."""
