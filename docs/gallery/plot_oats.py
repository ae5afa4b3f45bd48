"""
A split plot: means, contrasts and tests of terms
=================================================

Three varieties of oats on the plots of six blocks, four amounts of nitrogen on the subplots (Yates 1935).
Varieties are compared between plots, amounts within them: two errors, and different degrees of freedom for
them.
"""

import matplotlib.pyplot as plt
import pandas as pd

import mme

oats = pd.read_csv(mme.data_path("oats.csv")).rename(columns={"yield": "crop"})
result = mme.lmer("crop ~ C(nitro) * Variety + (1 | Block / Variety)", oats)
result.anova(ddf="kenward-roger")

# %%
# Nitrogen has 45 degrees of freedom for the error, the variety 10. There is no sign of an interaction.
#
# Estimated means
# ---------------

means = result.emmeans("nitro")
means

# %%
# Every amount against none, with Dunnett's adjustment for three comparisons:

means.contrast("trt.vs.ctrl")

# %%
# Pictures of both factors:

ax = result.plot.interaction("nitro", by="Variety")
ax.set_ylabel("crop (quarter pounds per subplot)")
plt.show()
