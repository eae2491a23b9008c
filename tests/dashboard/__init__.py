"""The dashboard and every other page, in a real browser. What a test may use: see conftest.py."""
