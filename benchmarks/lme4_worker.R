# Fits a workload by lme4 on command; see adapters.py for the protocol.
# Arguments: CSV file, formula, grouping columns separated by commas.
# Only lmer itself is timed: reading and conversion to factors come before.
suppressMessages(library(lme4))
arguments <- commandArgs(trailingOnly = TRUE)
answer <- function(...) {
  cat("@@peers {", sprintf(...), "}\n", sep = "")
  flush(stdout())
}
data <- read.csv(arguments[1], stringsAsFactors = TRUE)
for (name in strsplit(arguments[3], ",")[[1]]) data[[name]] <- factor(data[[name]])
model <- as.formula(arguments[2])
answer('"variants": ["factor"], "blas": ["%s"]', basename(extSoftVersion()[["BLAS"]]))
commands <- file("stdin")
open(commands)
while (length(line <- readLines(commands, n = 1)) > 0) {
  invisible(gc())
  tryCatch({
    seconds <- system.time(fit <- suppressMessages(suppressWarnings(lmer(model, data, REML = TRUE))))
    answer('"seconds": %.6f, "loglik": %.17g, "method": "REML"', seconds[["elapsed"]], as.numeric(logLik(fit)))
  }, error = function(e) {
    answer('"error": "%s"', gsub('["\\\\\n]', " ", conditionMessage(e)))
  })
}
