"""
Which random effects? Comparing covariances
===========================================

Six workers used three machines three times each. Workers differ; do they differ by machine? From one
variance to a covariance for each pair of machines.
"""

import matplotlib.pyplot as plt
import pandas as pd

import mme

machines = pd.read_csv(mme.data_path("machines.csv"))
workers = mme.lmer("score ~ Machine + (1 | Worker)", machines)
nested = mme.lmer("score ~ Machine + (1 | Worker) + (1 | Worker:Machine)", machines)
full = mme.lmer("score ~ Machine + (0 + Machine | Worker)", machines)
mme.compare(workers, nested, full)

# %%
# The likelihood ratio is large: workers do not differ alike on all machines. Whether a variance is there at
# all is tested exactly where the model has one, by simulation of the likelihood ratio's distribution, and
# never by a chi-square, whose p would be twice as large.

workers.test_variance()

# %%
# Effects of the machines, tested with the covariance that the data support:

full.anova()

# %%

full.plot.emmeans("Machine")
plt.show()

# %%
# Side by side:

mme.table([workers, nested, full], names=["intercepts", "nested", "full"])
