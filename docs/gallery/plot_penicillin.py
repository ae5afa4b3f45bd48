"""
Crossed factors: testing penicillin
===================================

Six samples of penicillin were tested on each of 24 plates; the diameter of the zone without growth tells
the potency. Samples and plates are crossed: every sample is on every plate.
"""

import matplotlib.pyplot as plt
import pandas as pd

import mme

penicillin = pd.read_csv(mme.data_path("penicillin.csv"))
result = mme.lmer("diameter ~ 1 + (1 | plate) + (1 | sample)", penicillin)
print(result.summary())

# %%
# Where the variance is
# ---------------------
# Standard deviations with intervals, and the share of each in the whole: what two measurements on one
# plate, or of one sample, have in common.

result.variance_table()

# %%

result.icc(by_term=True)

# %%
# The samples
# -----------
# ``reliability`` is the share of a sample's variance that the data tell: six samples on 24 plates are known
# almost exactly.

result.ranef_table("sample")

# %%

fig, axes = plt.subplots(1, 2, figsize=(9, 4.5))
result.plot.caterpillar("sample", ax=axes[0])
result.plot.caterpillar("plate", ax=axes[1])
fig.tight_layout()
plt.show()
