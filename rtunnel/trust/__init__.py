"""Pure decisions on trust: authorities, identities, keys and access policy."""
