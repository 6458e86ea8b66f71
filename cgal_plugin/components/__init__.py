"""The contract of the loop (protocols and checks), and the default component for each role."""
