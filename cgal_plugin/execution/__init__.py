"""Map tasks over processes of this machine or over Parsl."""
