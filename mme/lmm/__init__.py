"""lme4's door: linear mixed models from formulas with any number of grouping factors."""
