"""
Growth curves: reaction times under sleep restriction
=====================================================

Eighteen people slept three hours a night; their reaction time was measured on ten days. How much slower do
they become per day, and how much do people differ in that?
"""

import matplotlib.pyplot as plt
import pandas as pd

import mme

sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
print(result.summary())

# %%
# The average person becomes 10.5 ms slower per day. That figure and its test come with Satterthwaite's
# degrees of freedom: 17, since it is the 18 people, not the 180 rows, that tell how slopes vary.

result.coef_table()

# %%
# How people differ
# -----------------
# The standard deviation of the slopes, 5.9 ms per day, with a profile interval. The correlation with the
# intercept has a wide one: from -0.5 to 0.7.

result.conf_int(method="profile")

# %%
# Every person's intercept and slope, with intervals that count the uncertainty of the average:

result.plot.caterpillar()

# %%
# Would one slope for all have done? The likelihood ratio of a model without it, and the exact distribution
# of a variance at zero:

result.ranova()

# %%
# Two people of the future
# ------------------------
# Subject 308 is known, subject 999 is not: the interval of an observation is wider by the variance between
# people.

new = pd.DataFrame({"Days": [5.0, 12.0, 5.0], "Subject": [308, 308, 999]})
result.get_prediction(new).summary_frame()

# %%
# Does the model fit?
# -------------------

result.plot.check()
plt.show()
