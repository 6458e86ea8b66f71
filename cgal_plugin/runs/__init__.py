"""What a run directory looks like: layout, manifests, log, quarantine, status, cost."""
