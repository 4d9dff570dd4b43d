"""What monitors count, for Prometheus and OpenTelemetry, by their own clients."""
