"""From a project's source to a validated snapshot: which days belong to a run, the immutable extract of their labelled
events, the declared schema with the vocabularies that the training rows give it, and the expectations that stop bad
data before training."""
