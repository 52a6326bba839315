"""A model of the stage: the real `Stage` on the twin under any schedule of input, crashes, zombies, aborts and rebalances."""
