"""Where the proxies of a cluster find each other: records and backends."""
