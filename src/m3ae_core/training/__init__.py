"""The two training stages: what a step computes, the loop, and resuming."""
