# Makes residuals.json: Rscript residuals.R, in this folder (nlme, jsonlite)
suppressMessages({library(nlme); library(jsonlite)})
d <- read.csv(gzfile("../data/trial.csv.gz"), stringsAsFactors = TRUE)
d$fv <- factor(d$visit)
d <- d[order(d$patient, d$visit), ]
g <- glsControl(maxIter = 500, msMaxIter = 500, tolerance = 1e-12, msTol = 1e-13, opt = "nlminb")
l <- lmeControl(maxIter = 500, msMaxIter = 500, niterEM = 50, tolerance = 1e-12, msTol = 1e-13, opt = "nlminb")
f <- score ~ baseline + arm * visit
numbers <- function(m, method) {
  list(loglik = as.numeric(logLik(m)), sigma = m$sigma,
       coef = as.list(if (inherits(m, "lme")) fixef(m) else coef(m)),
       se = as.list(sqrt(diag(if (inherits(m, "lme")) m$varFix else vcov(m)))),
       cor = if (is.null(m$modelStruct$corStruct)) NULL else
         as.numeric(coef(m$modelStruct$corStruct, unconstrained = FALSE)),
       sd = if (is.null(m$modelStruct$varStruct)) NULL else
         as.list(coef(m$modelStruct$varStruct, unconstrained = FALSE, allCoef = TRUE)),
       normalized = head(as.numeric(residuals(m, type = "normalized")), 12),
       pearson = head(as.numeric(residuals(m, type = "pearson")), 12))
}
both <- function(fit) list(reml = numbers(fit("REML")), ml = numbers(fit("ML")))
out <- list(
  us = both(function(m) gls(f, d, correlation = corSymm(form = ~visit | patient), weights = varIdent(form = ~1 | fv),
                            method = m, control = g)),
  ar1 = both(function(m) gls(f, d, correlation = corAR1(form = ~visit | patient), method = m, control = g)),
  ar1h = both(function(m) gls(f, d, correlation = corAR1(form = ~visit | patient), weights = varIdent(form = ~1 | arm),
                              method = m, control = g)),
  car1 = both(function(m) gls(f, d, correlation = corCAR1(form = ~time | patient), method = m, control = g)),
  cs = both(function(m) gls(f, d, correlation = corCompSymm(form = ~1 | patient), method = m, control = g)),
  varident = both(function(m) gls(f, d, weights = varIdent(form = ~1 | arm), method = m, control = g)),
  weights_ar1 = both(function(m) gls(f, d, correlation = corAR1(form = ~visit | patient),
                                     weights = varFixed(~time + 1), method = m, control = g)),
  intercept_ar1 = both(function(m) lme(f, d, ~1 | patient, correlation = corAR1(form = ~visit | patient), method = m,
                                       control = l)),
  slope_car1 = both(function(m) lme(f, d, ~time | patient, correlation = corCAR1(form = ~time | patient), method = m,
                                    control = l)),
  nested_varident = both(function(m) lme(f, d, ~1 | site/patient, weights = varIdent(form = ~1 | arm), method = m,
                                         control = l)),
  nested_both = both(function(m) lme(f, d, ~1 | site/patient, correlation = corAR1(form = ~visit | site/patient),
                                     weights = varIdent(form = ~1 | arm), method = m, control = l)))
write(toJSON(list(provenance = "R 4.2.2, nlme 3.1-162; searches to 1e-12", models = out), digits = NA,
             auto_unbox = TRUE), "residuals.json")
