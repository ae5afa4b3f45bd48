# Makes means.json: Rscript means.R, in this folder (lmerTest, pbkrtest, emmeans, jsonlite)
suppressMessages({library(lmerTest); library(emmeans); library(pbkrtest); library(jsonlite)})
emm_options(lmerTest.limit = 1e6, pbkrtest.limit = 1e6)
d <- read.csv("../data/grid.csv.gz")
e <- d[!(d$a == "q" & d$b == "w"), ]
ctl <- lmerControl(optCtrl = list(xtol_abs = 1e-14, ftol_abs = 1e-14, xtol_rel = 1e-14, ftol_rel = 1e-15,
                                  maxeval = 10000))
an <- function(m) {
  one <- function(t) {
    a <- anova(m, type = t)
    list(term = rownames(a), F = a[["F value"]], df1 = a[["NumDF"]], df2 = a[["DenDF"]], p = a[["Pr(>F)"]],
         ss = a[["Sum Sq"]])
  }
  sapply(c("1", "2", "3"), one, simplify = FALSE)
}
tab <- function(g, ...) {
  s <- as.data.frame(summary(g, infer = c(TRUE, TRUE), ...))
  lapply(as.list(s), function(v) if (is.factor(v)) as.character(v) else v)
}
S <- function(m, ...) emmeans(m, ..., lmer.df = "satterthwaite")
K <- function(m, ...) emmeans(m, ..., lmer.df = "kenward-roger")
slope <- function(m, ...) emtrends(m, ..., delta.var = 1e-4, lmer.df = "satterthwaite")
joint <- function(m, ...) as.list(as.data.frame(joint_tests(m, ..., lmer.df = "satterthwaite")))

m1 <- lmer(y ~ a*b + x + flag + (1|g), d, control = ctl)
m2 <- lmer(y ~ a*b + (1|g), e, control = ctl)
m3 <- lmer(y ~ a*x + b*x + (1|g), d, control = ctl)
m4 <- lmer(y ~ a*s + b + (1|g), d, weights = w, control = ctl)
m5 <- lmer(y ~ a + x + offset(2*o) + (1|g), d, control = ctl)
m6 <- lmer(y ~ a*log(x) + poly(z, 2) + factor(k) + (1|g), d, control = ctl)
m8 <- lmer(y ~ A/B + x + (1|g), d, control = ctl)
m9 <- lmer(y ~ 0 + a + b + (1|g), d, control = ctl)
m10 <- lmer(y ~ flag*a + x + (1|g), d, control = ctl)
m11 <- lmer(y ~ a + a:b + x:a + (1|g), d, control = ctl)
b <- S(m1, "b")
out <- list(
  m1 = list(anova = an(m1), akr = as.list(anova(m1, ddf = "Kenward-Roger")), eq = tab(S(m1, "a")),
            pr = tab(S(m1, "a", weights = "proportional")), ce = tab(S(m1, "a", weights = "cells")),
            by = tab(S(m1, "a", by = "b")), kr = tab(K(m1, "b")), tuk = tab(pairs(b)),
            tukby = tab(pairs(S(m1, "a", by = "b"))), ctrl = tab(contrast(b, "trt.vs.ctrl", adjust = "mvt")),
            ctrl2 = tab(contrast(b, "trt.vs.ctrl", ref = 3, adjust = "holm")), consec = tab(contrast(b, "consec")),
            poly = tab(contrast(b, "poly")), sid = tab(contrast(b, "pairwise", adjust = "sidak")),
            fdr = tab(contrast(b, "pairwise", adjust = "fdr")),
            bonf = tab(contrast(K(m1, "b"), "pairwise", adjust = "bonferroni")), meanadj = tab(b, adjust = "sidak"),
            at = tab(S(m1, c("a", "x"), at = list(x = c(2, 3.5), b = c("u", "w")))), joint = joint(m1),
            jby = joint(m1, by = "a")),
  m2 = list(anova = an(m2), eq = tab(S(m2, "a")), cells = tab(S(m2, c("a", "b"))),
            ce = tab(S(m2, "a", weights = "cells")), pairs = tab(pairs(S(m2, "a"))), joint = joint(m2)),
  m3 = list(anova = an(m3), eq = tab(slope(m3, "a", "x")), pr = tab(slope(m3, "a", "x", weights = "proportional")),
            pairs = tab(pairs(slope(m3, "a", var = "x"))), joint = joint(m3)),
  m4 = list(anova = an(m4), eq = tab(S(m4, "a")), s = tab(S(m4, "s")), pr = tab(S(m4, "a", weights = "proportional")),
            ce = tab(S(m4, "a", weights = "cells")), joint = joint(m4)),
  m5 = list(eq = tab(S(m5, "a"))),
  m6 = list(anova = an(m6), eq = tab(S(m6, "a")), k = tab(S(m6, "k")), trx = tab(slope(m6, "a", "x")),
            trz = tab(slope(m6, "z", "z", at = list(z = c(-1, .5))))),
  m8 = list(anova = an(m8), A = tab(S(m8, "A")), B = tab(S(m8, "B")), pA = tab(pairs(S(m8, "A"))),
            pB = tab(pairs(S(m8, "B"))), joint = joint(m8)),
  m9 = list(anova = an(m9)), m10 = list(anova = an(m10)), m11 = list(anova = an(m11)))
options(contrasts = c("contr.sum", "contr.poly"))
out$m7 <- list(anova = an(lmer(y ~ a*b*z + (1|g), d, control = ctl)))
out$m7e <- list(anova = an(lmer(y ~ a*b*z + (1|g), e, control = ctl)))
made <- "R 4.2.2, lme4 1.1-31, lmerTest 3.1-3, pbkrtest 0.5-2, emmeans 1.8.4-1 (Debian 12)"
write(toJSON(list(provenance = unbox(made), models = out), digits = 10, na = "null"), "means.json")
