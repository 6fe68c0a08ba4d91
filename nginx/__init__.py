"""The Nginx in front of the two tiers: one set of templates and what fills them in. It knows neither tier's code."""
