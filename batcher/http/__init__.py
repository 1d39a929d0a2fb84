"""HTTP as this package needs it: connections that keep to one exchange, proxies, certificates."""
