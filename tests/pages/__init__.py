"""The pages of the dashboard over HTTP; tests/dashboard/ has them in a browser."""
