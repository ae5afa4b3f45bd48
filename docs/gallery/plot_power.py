"""
How many people does the next study need?
=========================================

A fit of a pilot study is a model from which new studies can be drawn. `mme.power` draws them, fits each and
counts significant tests.
"""

import matplotlib.pyplot as plt
import pandas as pd

import mme

sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
pilot = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)

# %%
# The pilot's slope is 10.5 ms per day. Suppose that 4 ms would matter. For 6 to 24 people:

power = mme.power(pilot, "Days", groups=[6, 12, 18, 24], values={"Days": 4.0}, n=200, seed=1)
power

# %%
# Power with its Monte Carlo interval:

fig, ax = plt.subplots()
ax.errorbar(
    power["groups"],
    power["power"],
    yerr=[power["power"] - power["lower"], power["upper"] - power["power"]],
    fmt="o-",
)
ax.axhline(0.8, color="grey", lw=0.8)
ax.set(xlabel="people", ylabel="power to find 4 ms per day", ylim=(0, 1))
plt.show()
