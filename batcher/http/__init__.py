"""HTTP as this package needs it: one exchange per connection at a time, proxies, certificates."""
