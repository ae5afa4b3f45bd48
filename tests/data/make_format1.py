"""Made format1_*.mme and format1.json, once, with mme 0.1.0; not to be run again for that format."""

import json

import numpy as np
import pandas as pd

import mme

sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
sleep["half"] = np.where(sleep["Days"] % 3 > 1, "late", "early")
fits = {
    "lmer": mme.lmer("Reaction ~ poly(Days, 2) + C(half, contr.sum) + (Days | Subject)", sleep),
    "mixedlm": mme.mixedlm(
        "Reaction ~ standardize(Days) * C(half, Sum)", sleep, groups="Subject", re_formula="~Days"
    ).fit(),
}
rows = sleep.iloc[[0, 57, 179]].drop(columns="Reaction")
words = {"lmer": "Groups: Subject (18)", "mixedlm": "No. Groups:"}
want = {}
for name, fit in fits.items():
    mme.save(fit, f"tests/data/format1_{name}.mme")
    coding = fit.fitted.coding()
    table = [fit.contrast(row) for row in coding.fixed(rows)]
    want[name] = {
        "formula": coding.formula,
        "llf": fit.llf,
        "rows": rows.to_dict("list"),
        "predict": [float(np.asarray(fit.fittedvalues)[i]) for i in (0, 57, 179)],
        "mean_se": [float(t["se"].iloc[0]) for t in table],
        "df": [float(t["df"].iloc[0]) for t in table],
        "words": words[name],
    }
with open("tests/data/format1.json", "w") as file:
    json.dump(want, file, indent=1)
