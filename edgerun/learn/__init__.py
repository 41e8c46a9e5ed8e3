"""Learning on the device, in integers: a rule makes a wanted change, stages consolidate, limit and write it.

eprop        what the window says: factors of the gradient            reservoir    a bounded, class-balanced memory
stages       the chain from gradient to weight                        prototypes   classes taught by example
learner      lessons, boundaries, snapshots and the digest            drift        when errors have become more
tape         the memory that a rule works in                           profiles     how wide numbers are stored
rewire       synapses that go and grow at boundaries
contradiction one sample under two names
doubt        labels that cannot be right
watch        when samples have changed, told without labels
"""
