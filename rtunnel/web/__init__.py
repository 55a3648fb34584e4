"""The listener for balancers and people: health and readiness."""
