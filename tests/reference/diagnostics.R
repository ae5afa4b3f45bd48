# Makes diagnostics.json: Rscript diagnostics.R, in this folder (lme4, car, jsonlite)
suppressMessages({library(lme4); library(car); library(jsonlite)})
ctl <- lmerControl(optCtrl = list(xtol_abs = 1e-13, ftol_abs = 1e-13, xtol_rel = 1e-14, ftol_rel = 1e-16, maxeval = 20000),
                   calc.derivs = FALSE)
read <- function(name) read.csv(gzfile(sprintf("../data/%s.csv.gz", name)), stringsAsFactors = TRUE)
of <- function(name, formula, weighted = FALSE) {
  d <- read(name)
  d$w <- if (weighted) as.numeric(d$Sex) + 0.5 else 1
  m <- lmer(as.formula(formula), d, weights = w, control = ctl)
  m <- update(m, start = getME(m, "theta"))
  x <- list(data = name, formula = formula, theta = getME(m, "theta"), hatvalues = head(unname(hatvalues(m)), 20),
            cooks = head(unname(cooks.distance(m)), 20),
            pearson = head(unname(residuals(m, type = "pearson", scaled = TRUE)), 20))
  if (length(attr(terms(m), "term.labels")) > 1) {
    v <- vif(m)
    x$vif <- as.list(if (is.matrix(v)) v[, 1] else v)
    if (is.matrix(v)) x$df <- as.list(v[, 2])
  }
  x
}
out <- list(
  sleepstudy_slope = of("sleepstudy", "Reaction ~ Days + (Days|Subject)"),
  orthodont = of("ub_orthodont", "distance ~ age*Sex + (age|Subject)"),
  oats = of("ub_oats", "yield ~ nitro*Variety + (1|Block/Variety)"),
  penicillin = of("ub_penicillin", "diameter ~ 1 + (1|plate) + (1|sample)"),
  machines = of("ub_machines", "score ~ Machine + (1|Worker/Machine)"),
  weighted = of("ub_orthodont", "distance ~ age + Sex + (1|Subject)", TRUE))
write(toJSON(list(provenance = "R 4.2.2, lme4 1.1-31, car 3.1-1; searches to 1e-13", models = out), digits = NA,
             auto_unbox = TRUE), "diagnostics.json")
