"""Readings from elsewhere: agents and Prometheus endpoints, over HTTP. What is light is imported without the HTTP client."""
