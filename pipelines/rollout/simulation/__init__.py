"""Rollouts that never happened: traffic that is drawn, through the real machine and its judge, beside other methods.

`traffic` draws what a model server would report, `trial` runs one rollout, `peers` are the methods that others use,
`study` repeats them and counts. `pairs` is what a shadow saves, whose scores are of the same requests.
"""
