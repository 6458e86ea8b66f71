"""The run directory: layout, manifests, log, quarantine, status, cost."""
