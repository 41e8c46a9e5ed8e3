"""What survives: bundles in slots, learned state in checkpoints, the journal of lessons, messages in the outbox."""
